"""How much blocks of layers turn the residual stream, each layer alone, and which are alike.

It reads the tables of a similarity result; tasks are averaged with the same weight.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from layerwise.ground.layer_names import DECODER
from layerwise.presentation.grid import layer_ticks, legend_below, rows_and_columns, set_title
from layerwise.presentation.layer_axis import name_layers
from layerwise.presentation.lettering import label
from layerwise.presentation.rows import rows
from layerwise.presentation.style import COLUMN_WIDTH, FULL_WIDTH, look, new_figure, styled
from layerwise.presentation.wording import CAPABILITY_ORDER, counted, in_order

FLOOR = 1e-3
_LEAST, _HEIGHT, _MAP = 2.1, 2.15, "viridis"


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
    down, across = rows_and_columns(3, width, _LEAST)
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
    image = axes.imshow(np.ma.masked_invalid(values), cmap=_MAP, aspect="auto", vmin=0,
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
    image = axes.imshow(np.ma.masked_invalid(values), cmap=_MAP, aspect="auto",
                        origin="lower", vmin=0, vmax=1)  # fmt: skip
    for along in "xy":
        name_layers(axes, along, depths, min(room, _HEIGHT - 0.9), 0.24, first=first)
    axes.set_xlabel("stream before layer")
    axes.set_ylabel("stream before layer")
    axes.set_title("CKA between depths", loc="left", pad=3)
    return image
