"""The figure of this study: which layers are needed before and after, and what trained ones bring.

It reads the study's own tables only.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from layerwise.presentation.charts.panels import add_figure_legend
from layerwise.presentation.rows import rows
from layerwise.presentation.style import COLUMN_WIDTH, look, new_figure, with_style
from layerwise.presentation.wording import protocol_words

# Whose losses are drawn, and of which suite.
NEEDED = {
    ("base", "arithmetic"): "base: two numbers",
    ("adapted", "arithmetic"): "adapted: two numbers",
    ("adapted", "sum-chain"): "adapted: sum chains",
}
WAYS = {"brings": "one adapted layer brings", "destroys": "its return destroys"}
N_LAYERS = 30
HEALED_HOSTS = {"teacher": "whole", "student": "without six layers", "distilled": "healed"}


@with_style
def layer_effects_figure(layers: pd.DataFrame, transplant: pd.DataFrame) -> Figure:
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
    add_figure_legend(figure, handles)
    return figure


@with_style
def what_healing_brings(gains: pd.DataFrame) -> Figure:
    """Accuracy of the whole model, without the six layers, and healed, by suite and protocol.

    Args:
        gains: ``gains.parquet`` of the study.
    """
    told = rows(gains, case="healed")
    protocols = list(dict.fromkeys(told["protocol"]))
    figure = new_figure(COLUMN_WIDTH, 2.2)
    grid = figure.subplots(1, len(protocols), sharey=True, squeeze=False)[0]
    for axes, protocol in zip(grid, protocols, strict=True):
        of = rows(told, protocol=protocol)
        for i, (host, label) in enumerate(HEALED_HOSTS.items()):
            seen = look(i)
            at = [place + 0.22 * (i - 1) for place in range(len(of))]
            axes.plot(at, 100 * of[f"acc_{host}"], ls="", marker=seen.marker, ms=4, mew=0,
                      color=seen.color, label=label)  # fmt: skip
        axes.set_title(protocol_words(protocol), loc="left")
        axes.set_xticks(range(len(of)), list(of["task"]), rotation=30, ha="right")
        axes.set_xlim(-0.6, len(of) - 0.4)
        axes.set_ylim(-5, 105)
        axes.spines[["top", "right"]].set_visible(False)
    grid[0].set_ylabel("right (%)")
    add_figure_legend(figure, grid[0].get_legend_handles_labels()[0])
    return figure


def _line(axes: Axes, told: pd.DataFrame, at: str, column: str, index: int, label: str) -> None:
    seen, each = look(index), told.sort_values(at)
    axes.plot(each[at], 100 * each[column].astype(float), color=seen.color, ls=seen.linestyle,
              lw=1.0, marker=seen.marker, ms=2.6, mew=0, label=label)  # fmt: skip
