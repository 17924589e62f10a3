"""The figure of this study: which layers are needed before and after, and what trained ones bring.

It reads the study's own tables only.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from layerwise.presentation.grid import legend_below
from layerwise.presentation.rows import rows
from layerwise.presentation.style import COLUMN_WIDTH, look, new_figure, styled

# Whose losses are drawn, and of which suite.
NEEDED = {
    ("base", "arithmetic"): "base: two numbers",
    ("adapted", "arithmetic"): "adapted: two numbers",
    ("adapted", "sum-chain"): "adapted: sum chains",
}
WAYS = {"brings": "one adapted layer brings", "destroys": "its return destroys"}
N_LAYERS = 30


@styled
def where_it_is_done(layers: pd.DataFrame, transplant: pd.DataFrame) -> Figure:
    """Above: what skipping a layer costs. Below: what adapted layers bring and carry.

    Args:
        layers: ``layers.parquet`` of the study.
        transplant: ``transplant.parquet`` of the study.
    """
    figure = new_figure(COLUMN_WIDTH, 4.4)
    above, below = figure.subplots(2, 1, sharex=True)
    for i, ((case, task), label) in enumerate(NEEDED.items()):
        told = rows(layers, case=case, task=task, protocol="generate", signal=True)
        _line(above, told, "layer", "share_lost", i, label)
    moved = rows(transplant, case="adapted", task="sum-chain", set="single")
    for i, (way, label) in enumerate(WAYS.items()):
        told = rows(moved, direction=way)
        _line(below, told, "layer", "share", i + 3, label)
    for axes in (above, below):
        axes.axhline(0, color="0.6", lw=0.5, zorder=0)
        axes.set_xlim(-0.5, N_LAYERS - 0.5)
        axes.set_xticks(range(0, N_LAYERS, 5))
        axes.spines[["top", "right"]].set_visible(False)
    above.set_ylabel("lost without the layer (%)")
    below.set_ylabel("of the gain (%)")
    below.set_xlabel("layer")
    handles = [*above.get_legend_handles_labels()[0], *below.get_legend_handles_labels()[0]]
    legend_below(figure, handles)
    return figure


def _line(axes: Axes, told: pd.DataFrame, at: str, column: str, index: int, label: str) -> None:
    seen, each = look(index), told.sort_values(at)
    axes.plot(each[at], 100 * each[column].astype(float), color=seen.color, ls=seen.linestyle,
              lw=1.0, marker=seen.marker, ms=2.6, mew=0, label=label)  # fmt: skip
