"""The pictures of this analysis, each from its tables alone."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D

from layerwise.ground.layer_names import DECODER, ENCODER
from layerwise.presentation.grid import layer_ticks, legend_below, rows_and_columns, set_title
from layerwise.presentation.layer_axis import name_layers
from layerwise.presentation.lettering import label
from layerwise.presentation.rows import records, rows
from layerwise.presentation.style import COLUMN_WIDTH, FULL_WIDTH, look, new_figure, styled
from layerwise.presentation.wording import CAPABILITY_ORDER, PROTOCOL_ORDER, counted, in_order

FLOOR = 1e-3
_LEAST_WIDTH, _HEIGHT, _COLORS = 2.1, 2.15, "viridis"
NAMES = {"influence": "block influence", "angular": "angular distance", "cka": "1 − CKA"}
EFFECTS = {"share_lost": "accuracy lost", "nats": "log-probability lost"}
_BOTH = ""
_ROW, _STEP, _LEAST = 0.34, 0.24, 2.0


@styled
def similarity_map(
    angular: pd.DataFrame,
    influence: pd.DataFrame,
    cka: pd.DataFrame,
    protocol: str | None = None,
    width: float = FULL_WIDTH,
) -> Figure:
    """Angular distance by block, block influence by layer, and CKA by pair of depths.

    Args:
        angular: the table ``angular.parquet``.
        influence: the table ``influence.parquet``.
        cka: the table ``cka.parquet``.
        protocol: whose prompts are shown; the first in the tables if None.
        width: the widest the figure may be, inches.

    Returns:
        Left the map of arXiv:2403.17887: dots mark the block of each size that turns
        the stream least. In the middle a line per capability, the band the range over its tasks;
        values below 0.001 stand there. Right the unbiased CKA; grey where it is undefined, or of
        depths of two stacks.
    """
    protocol = str(influence["protocol"].iloc[0]) if protocol is None else protocol
    shown = [rows(table, protocol=protocol) for table in (angular, influence, cka)]
    down, across = rows_and_columns(3, width, _LEAST_WIDTH)
    size = min(width, max(COLUMN_WIDTH, across * 2.3)), down * _HEIGHT + 0.75
    figure = new_figure(*size)
    grid = figure.subplots(down, across, squeeze=False).ravel()
    room = size[0] / across - 0.9
    maps = (_angular(grid[0], shown[0], room), _cka(grid[2], shown[2], room))
    _influence(grid[1], shown[1], room)
    names = ("distance (units of π)", "unbiased CKA")
    for axes, image, name in zip((grid[0], grid[2]), maps, names, strict=True):
        bar = figure.colorbar(image, ax=axes, location="bottom", aspect=25, fraction=0.08)
        bar.set_label(name)
        bar.ax.spines[:].set_linewidth(0.4)
    n_tasks = len(set(shown[1]["task"]))
    over = counted(n_tasks, "task") if n_tasks == 1 else f"mean over {n_tasks} tasks"
    set_title(figure, f"Similarity of layers, {label(protocol)} prompts ({over})")
    legend_below(figure, [line for line in grid[1].get_lines() if line.get_gid() == "influence"])
    return figure


def _angular(axes: Axes, table: pd.DataFrame, room: float) -> AxesImage:
    wide = table.pivot_table(index="n_layers", columns="layer", values="distance", aggfunc="mean")
    values = wide.to_numpy(dtype=float)
    image = axes.imshow(np.ma.masked_invalid(values), cmap=_COLORS, aspect="auto", vmin=0,
                        origin="lower", extent=(-0.5, values.shape[1] - 0.5, 0.5,
                                                values.shape[0] + 0.5))  # fmt: skip
    best = [(int(np.nanargmin(row)), n) for n, row in enumerate(values, start=1)]
    axes.plot(*np.transpose(best), ls="", marker="o", ms=2.8, mfc="white", mec="black", mew=0.5,
              gid="least")  # fmt: skip
    name_layers(axes, "x", range(values.shape[1]), room, 0.24)
    axes.set_yticks(layer_ticks(range(1, values.shape[0] + 1), _HEIGHT - 0.9))
    axes.set_xlabel("first layer of the block")
    axes.set_ylabel("layers in the block")
    axes.set_title("Angle across a block", loc="left", pad=3)
    return image


def _influence(axes: Axes, table: pd.DataFrame, room: float) -> None:
    for i, capability in enumerate(in_order(table["capability"], CAPABILITY_ORDER)):
        wide = rows(table, capability=capability).pivot_table(
            index="layer", columns="task", values="influence"
        )
        values, seen = wide.to_numpy(dtype=float).clip(min=FLOOR), look(i)
        axes.plot(
            wide.index, values.mean(axis=1), color=seen.color, ls=seen.linestyle, lw=0.9,
            marker=seen.marker, ms=2.4, markevery=max(1, len(wide) // 10), gid="influence",
            label=label(str(capability), 14),
        )  # fmt: skip
        axes.fill_between(
            wide.index.to_numpy(dtype=float), values.min(axis=1), values.max(axis=1),
            color=seen.color, alpha=0.2, lw=0,
        )  # fmt: skip
    axes.set_yscale("log")
    axes.set_ylim(bottom=FLOOR)
    name_layers(axes, "x", range(len(set(table["layer"]))), room, 0.24)
    axes.set_xlabel("layer")
    axes.set_ylabel("1 − cosine")
    axes.set_title("Block influence", loc="left", pad=3)
    axes.spines[["top", "right"]].set_visible(False)


def _cka(axes: Axes, table: pd.DataFrame, room: float) -> AxesImage:
    behind = np.asarray(table["stack"].isin([DECODER]), dtype=int)
    # What leaves the encoder and what enters the decoder are two depths with one number.
    layer, other = (np.asarray(table[name], dtype=int) + behind for name in ("layer", "other"))
    placed = table.assign(layer=layer, other=other)
    wide = placed.pivot_table(index="layer", columns="other", values="cka_unbiased", dropna=False)
    depths = range(int(other.max()) + 1)
    first = int(layer[behind == 1].min()) if behind.any() else None
    half = wide.reindex(index=depths, columns=depths).to_numpy(dtype=float)
    values = np.where(np.isnan(half), half.T, half)
    axes.set_facecolor("0.8")
    image = axes.imshow(np.ma.masked_invalid(values), cmap=_COLORS, aspect="auto",
                        origin="lower", vmin=0, vmax=1)  # fmt: skip
    for along in "xy":
        name_layers(axes, along, depths, min(room, _HEIGHT - 0.9), 0.24, first=first)
    axes.set_xlabel("stream before layer")
    axes.set_ylabel("stream before layer")
    axes.set_title("CKA between depths", loc="left", pad=3)
    return image


@styled
def prediction_ranges(prediction: pd.DataFrame, width: float = FULL_WIDTH) -> Figure:
    """Rank correlations over layers, a panel per protocol and effect.

    Args:
        prediction: the table ``prediction.parquet``.
        width: the widest the figure may be, inches.

    Returns:
        A row per capability, a point with its bootstrap interval over items per predictor; under
        it rows of each stack's layers alone, if there are two. Filled points differ from 0 after
        Holm's correction.
    """
    prediction = prediction.assign(stack=prediction["stack"].fillna(_BOTH))
    stacks = in_order(prediction["stack"], (_BOTH, ENCODER, DECODER))
    capabilities = in_order(prediction["capability"], CAPABILITY_ORDER)
    lines = list(product(capabilities, stacks))
    plan = [
        (protocol, effect)
        for effect in EFFECTS
        for protocol in in_order(prediction["protocol"], PROTOCOL_ORDER)
        if len(rows(prediction, protocol=protocol, effect=effect))
    ]
    down, across = rows_and_columns(len(plan), width, _LEAST)
    size = min(width, max(COLUMN_WIDTH, 2.4 * across)), down * (_ROW * len(lines) + 0.5) + 1
    figure = new_figure(*size)
    grid = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).ravel()
    for axes, (protocol, effect) in zip(grid, plan, strict=False):
        _draw(axes, rows(prediction, protocol=protocol, effect=effect), lines)
        axes.set_title(f"{label(protocol, 14)}: {EFFECTS[effect]}", loc="left", pad=3)
        axes.tick_params(labelbottom=True)
    for spare in grid[len(plan) :]:
        spare.remove()
    for axes in grid[max(0, len(plan) - across) : len(plan)]:
        axes.set_xlabel("rank correlation over layers")
    set_title(
        figure, "Does similarity tell which layers can be skipped? (Spearman, 95 % over items)"
    )
    legend_below(figure, _handles())
    return figure


def _draw(axes: Axes, mine: pd.DataFrame, lines: list[tuple[str, str]]) -> None:
    axes.axvline(0, color="0.6", lw=0.6)
    for row in records(mine):
        i = list(NAMES).index(row["predictor"])
        seen, y = look(i), lines.index((row["capability"], row["stack"])) + _STEP * (i - 1)
        if pd.isna(row["rho"]):
            continue
        if not pd.isna(row["low"]):
            axes.plot([row["low"], row["high"]], [y, y], color=seen.color, lw=1.2, gid="interval")
        sure = row["p_holm"] < 0.05
        axes.plot([row["rho"]], [y], marker=seen.marker, ms=3.6, mew=0.8, color=seen.color,
                  mfc=seen.color if sure else "white", gid="rho")  # fmt: skip
    names = [label(capability if stack == _BOTH else stack, 14) for capability, stack in lines]
    axes.set_yticks(range(len(lines)), names)
    axes.set_ylim(len(lines) - 0.5, -0.5)
    axes.set_xlim(-1.05, 1.05)
    axes.grid(axis="x", color="0.9", lw=0.5)
    axes.spines[["top", "right"]].set_visible(False)


def _handles() -> list[Line2D]:
    handles = []
    for i, name in enumerate(NAMES.values()):
        seen = look(i)
        handles.append(
            Line2D([], [], color=seen.color, marker=seen.marker, ms=3.6, lw=1.2, label=name)
        )
    hollow = Line2D([], [], ls="", marker="o", ms=3.6, mfc="white", mec="0.35",
                    label="hollow: not significant over items and layers")  # fmt: skip
    return [*handles, hollow]
