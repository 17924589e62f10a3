"""Shapley values by layer beside what each layer costs alone, a panel per task."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from layerwise.presentation.grid import legend_below, set_title
from layerwise.presentation.panels import by_protocol, finish_panels, protocol_handles, task_panels
from layerwise.presentation.rows import layers_of, numbers, rows
from layerwise.presentation.style import FULL_WIDTH, protocol_look, styled


@styled
def shapley_values(
    shapley: pd.DataFrame, by: str, measure: str = "nats", width: float = FULL_WIDTH
) -> Figure:
    """How the cost of skipping all layers is shared out among them.

    Args:
        shapley: rows of ``shapley.parquet`` of whole layers or sublayers, some with signal.
        by: ``pairs`` or ``permutations``.
        measure: ``nats``, ``margin`` or ``accuracy``.
        width: the widest the figure may be, inches.

    Returns:
        A line per protocol with signal, with bootstrap 95 % intervals over items; open markers
        are costs of single layers.
    """
    shown = rows(shapley, by=by, measure=measure, signal=True)
    figure, panels = task_panels(shown, width)
    for task, axes in panels.items():
        for protocol, line in by_protocol(rows(shown, task=task)):
            seen = protocol_look(protocol)
            layers = numbers(line, "layer")
            value, low, high = (numbers(line, name) for name in ("value", "low", "high"))
            axes.vlines(layers, low, high, color=seen.color, lw=0.9)
            axes.plot(layers, value, color=seen.color, ls=seen.linestyle, lw=0.9,
                      marker=seen.marker, ms=2.6, gid=f"value {protocol}")  # fmt: skip
            axes.plot(layers, numbers(line, "alone"), ls="", marker=seen.marker, ms=2.6, mew=0.6,
                      mfc="white", mec=seen.color, zorder=1, gid=f"alone {protocol}")  # fmt: skip
        axes.axhline(0, color="0.6", lw=0.6, ls=(0, (4, 2)), zorder=0)
    every, layers = list(panels.values()), layers_of(shown)
    finish_panels(figure, every, layers, "accuracy" if measure == "accuracy" else "nats")
    if np.ptp(layers) == 0:
        every[0].set_xlim(layers[0] - 1, layers[0] + 1)
    set_title(figure, f"Shapley values of layers, by {by} (lines: 95 % intervals)")
    note = Line2D([], [], ls="", marker="o", ms=2.6, mfc="white", mec="0.35", label="skipped alone")
    legend_below(figure, [*protocol_handles(shown), note])
    return figure
