"""Figures of ``similarity``, drawn from its saved tables alone."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from layerwise.ground.layer_names import DECODER, ENCODER
from layerwise.presentation.charts.heat import ABSENT, Mark, cells, draw_heat
from layerwise.presentation.charts.lines import Words, draw_ranges, draw_series, ranges, series
from layerwise.presentation.charts.marks import level
from layerwise.presentation.charts.panels import Bar, Panels
from layerwise.presentation.layer_axis import layer_ticks, name_layers
from layerwise.presentation.rows import numbers, parts, rows
from layerwise.presentation.style import FULL_WIDTH, look, plain_log_scale, with_style
from layerwise.presentation.wording import (
    CAPABILITY_ORDER,
    PROTOCOL_ORDER,
    count_noun,
    in_order,
    protocol_phrase,
    protocol_words,
)

FLOOR = 1e-3
_HEIGHT = 1.25
_COLORS = sns.color_palette("viridis", as_cmap=True)
_LEAST = Mark("turns the stream least", lambda row: row["least"] is True, gid="least")
NAMES = {"influence": "block influence", "angular": "angular distance", "cka": "1 − CKA"}
EFFECTS = {"share_lost": "accuracy lost", "nats": "log-probability lost"}
_BOTH = ""
_ROW = 0.34


@with_style
def similarity_map(
    angular: pd.DataFrame,
    influence: pd.DataFrame,
    cka: pd.DataFrame,
    protocol: str | None = None,
    width: float = FULL_WIDTH,
) -> Figure:
    """Angular distance by block, block influence by layer, and CKA by pair of depths.

    Left the map of arXiv:2403.17887: dots mark the block of each size that turns the stream least.
    In the middle a line per capability, the band the range over its tasks; values below 0.001 stand
    there. Right the unbiased CKA; grey where it is undefined, or of depths of two stacks.

    ``angular`` is the table ``angular``; ``influence`` is the table ``influence``;
    ``cka`` is the table ``cka.parquet``.
    """
    protocol = str(influence["protocol"].iloc[0]) if protocol is None else protocol
    angles, turned, alike = (rows(table, protocol=protocol) for table in (angular, influence, cka))
    titles = [["Angle across a block"], ["Block influence"], ["CKA between depths"]]
    panels = Panels(titles, width, (_HEIGHT,), least=2.1, most=2.3, share="", below=0.7)
    first, middle, last = panels.flat
    largest = _angular(first, angles, panels.room)
    _influence(middle, turned, panels.room)
    _cka(last, alike, panels.room)
    panels.add_bar(Bar(_COLORS, 0.0, largest, "distance (units of π)"), [first])
    panels.add_bar(Bar(_COLORS, 0.0, 1.0, "unbiased CKA"), [last])
    n_tasks = len(set(turned["task"]))
    over = count_noun(n_tasks, "task") if n_tasks == 1 else f"mean over {n_tasks} tasks"
    return panels.finish(f"Similarity of layers {protocol_phrase(protocol)} ({over})")


def _angular(axes: Axes, table: pd.DataFrame, room: float) -> float:
    """Distances by block; the largest of them."""
    means = _means(table, "distance", ["n_layers", "layer"])
    lowest = means.groupby("n_layers")["distance"].transform("min")
    means["least"] = means["distance"] == lowest
    sizes, layers = (sorted({int(n) for n in means[name]}) for name in ("n_layers", "layer"))
    largest = float(numbers(means, "distance").max())
    drawn = cells(
        means, "distance", ("n_layers", sizes), ("layer", layers), [_LEAST],
        lambda row: f"{row['n_layers']} layers from {row['layer']}: {row['distance']:.2f} π",
    )  # fmt: skip
    draw_heat(axes, drawn, Bar(_COLORS, 0.0, largest, ""), (room, _HEIGHT))
    name_layers(axes, "x", layers, room, 0.24, cells=True)
    ticks = layer_ticks(sizes, _HEIGHT)
    axes.set_yticks([sizes.index(tick) + 0.5 for tick in ticks], [str(tick) for tick in ticks])
    axes.set_ylim(0, len(sizes))
    axes.set_xlabel("first layer of the block")
    axes.set_ylabel("layers in the block")
    return largest


def _means(table: pd.DataFrame, column: str, by: list[str]) -> pd.DataFrame:
    """Means over tasks."""
    return pd.DataFrame(table.groupby(by)[column].mean()).reset_index()


def _influence(axes: Axes, table: pd.DataFrame, room: float) -> None:
    shown = []
    layers = sorted({int(layer) for layer in table["layer"]})
    for i, capability in enumerate(in_order(table["capability"], CAPABILITY_ORDER)):
        of_capability = rows(table, capability=capability)
        of_capability = of_capability.assign(
            influence=of_capability["influence"].astype(float).clip(lower=FLOOR)
        )
        over = of_capability.groupby("layer")["influence"].agg(["mean", "min", "max"]).reset_index()
        shown.append(series(over, "influence", look(i), "mean", ends=("min", "max"),
                            label=str(capability), every=max(1, len(over) // 10)))  # fmt: skip
    draw_series(axes, shown)
    plain_log_scale(axes)
    axes.set_ylim(bottom=FLOOR)
    name_layers(axes, "x", layers, room, 0.24)
    axes.set_xlabel("layer")
    axes.set_ylabel("1 − cosine")


def _cka(axes: Axes, table: pd.DataFrame, room: float) -> None:
    behind = np.asarray(table["stack"].isin([DECODER]), dtype=int)
    # What leaves the encoder and what enters the decoder are two depths with one number.
    pair = {name: np.asarray(table[name], dtype=int) + behind for name in ("layer", "other")}
    half = table.assign(**pair)
    whole = pd.concat([half, half.rename(columns={"layer": "other", "other": "layer"})])
    means = _means(whole, "cka_unbiased", ["layer", "other"])
    depths = range(int(numbers(means, "other").max()) + 1)
    first = int(pair["layer"][behind == 1].min()) if behind.any() else None
    drawn = cells(means, "cka_unbiased", ("other", depths), ("layer", depths))
    draw_heat(axes, drawn, Bar(_COLORS, 0.0, 1.0, ""), (room, _HEIGHT), absent=ABSENT)
    axes.set_ylim(0, len(depths))
    for along in "xy":
        name_layers(
            axes, along, depths, min(room, _HEIGHT), 0.24, first=first, cells=True
        )  # fmt: skip
    axes.set_xlabel("stream before layer")
    axes.set_ylabel("stream before layer")


@with_style
def prediction_ranges(prediction: pd.DataFrame, width: float = FULL_WIDTH) -> Figure:
    """Rank correlations over layers, a panel per protocol and effect.

    A row per capability, a point with its bootstrap interval over items per predictor; under it
    rows of each stack's layers alone, if there are two. Filled points differ from 0 after Holm's
    correction.

    ``prediction`` is the table ``prediction``.
    """
    stacks = prediction["stack"].fillna(_BOTH)
    names = list(product(in_order(prediction["capability"], CAPABILITY_ORDER),
                         in_order(stacks, (_BOTH, ENCODER, DECODER))))  # fmt: skip
    table = prediction.assign(sure=prediction["p_holm"] < 0.05)
    table["row"] = list(zip(prediction["capability"], stacks, strict=True))
    plan = parts(table, effect=tuple(EFFECTS), protocol=PROTOCOL_ORDER)
    groups = [({"predictor": n}, look(i), words) for i, (n, words) in enumerate(NAMES.items())]
    titles = [[f"{protocol_words(protocol)}: {EFFECTS[effect]}"] for (effect, protocol), _ in plan]
    panels = Panels(titles, width, (_ROW * len(names),), least=2.0, most=2.4, left=0.9)
    words = Words(unsure="hollow: not significant over items and layers", interval="95 % interval")
    for axes, (_, of_panel) in zip(panels.flat, plan, strict=True):
        level(axes, 0, upright=True)
        of_panel = of_panel.dropna(subset=["rho"])
        drawn = ranges(of_panel, names, "row", groups, ("rho", "low", "high"), sure="sure")
        draw_ranges(axes, [stack or capability for capability, stack in names], drawn, words)
    panels.flat[0].set_xlim(-1.05, 1.05)
    title = "Does similarity tell which layers can be skipped? (Spearman, 95 % over items)"
    return panels.finish(title, "rank correlation over layers")
