"""Figures of ``training``, drawn from its saved tables alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from layerwise.presentation.charts.heat import (
    LOST,
    Mark,
    cells,
    draw_heat,
    hatch,
    map_height,
    share_lost_tooltip,
)
from layerwise.presentation.charts.lines import draw_series, series
from layerwise.presentation.charts.marks import level, note
from layerwise.presentation.charts.panels import Panels, task_title
from layerwise.presentation.layer_axis import name_layers
from layerwise.presentation.naming import name_layer
from layerwise.presentation.rows import by_task, numbers, records, rows
from layerwise.presentation.style import FULL_WIDTH, protocol_look, with_style
from layerwise.presentation.wording import count_range, protocol_phrase

# Inches from one step's number to the next.
_STEP = 0.36
_INTERVAL: dict[str, Any] = {"facecolor": "0.86", "edgecolor": "none"}
_LOST = Mark("significant loss (Holm, whole series)", lambda row: row["significant"] is True)


@with_style
def training_course(
    accuracy: pd.DataFrame,
    layers: pd.DataFrame,
    onsets: pd.DataFrame,
    n_layers: int,
    protocol: str,
    width: float = FULL_WIDTH,
) -> Figure:
    """Steps at which each task is learned, and by which layers, under one protocol."""
    shown = rows(accuracy, protocol=protocol)
    tasks, steps = by_task(shown), sorted({int(step) for step in shown["step"]})
    lower = map_height(n_layers, 0.11, 3.0)
    titles = [task_title(line.drop(columns="signal")) for _, line in tasks]
    panels = Panels(titles, width, (0.85, lower), least=1.5, most=2.6)
    for (upper, below), (task, line) in zip(panels.axes, tasks, strict=True):
        of_task, line = {"task": task, "protocol": protocol}, line.sort_values(by="step")
        _draw_accuracy(upper, line, rows(onsets, **of_task), steps)
        lit = rows(rows(layers, **of_task), step=list(rows(line, signal=True)["step"]))
        drawn = cells(
            lit, "share_lost", ("layer", range(n_layers)), ("step", steps), [_LOST],
            lambda row: f"step {row['step']}, layer {name_layer(row['layer'])}: "
                        f"{share_lost_tooltip(row)}",
        )  # fmt: skip
        draw_heat(below, drawn, LOST, (panels.room, lower))
        for step in rows(line, signal=False)["step"]:
            hatch(below, steps.index(int(step)), 0, 1, n_layers)
        name_layers(below, "y", range(n_layers), lower, cells=True)
        _name_steps(below, steps, panels.room)
    title = f"What is learned at which step {protocol_phrase(protocol)}"
    counted = count_range([len(steps)], "checkpoint")
    return panels.finish(
        f"{title} ({counted})", "step (a column each)", ["accuracy (%)", "layer"], LOST
    )


def _draw_accuracy(axes: Axes, line: pd.DataFrame, onsets: pd.DataFrame, steps: list[int]) -> None:
    for row in records(onsets.loc[onsets["appears"]]):
        ends = [steps.index(int(row[name])) for name in ("low", "high")]
        axes.axvspan(ends[0], ends[1] + 1, **_INTERVAL, gid="interval")
        note(axes, Patch(label="where it may lie (95 %)", **_INTERVAL))
        level(axes, steps.index(int(row["onset"])) + 0.5, upright=True, gid="onset",
              label="onset", color="0.1", lw=1.0)  # fmt: skip
    at = np.array([steps.index(int(step)) + 0.5 for step in line["step"]])
    seen = protocol_look(str(line["protocol"].iloc[0]))
    right = series(line, "accuracy", seen, "accuracy", x="step", at=at, ends=("low", "high"),
                   scale=100, unit=" % right")  # fmt: skip
    draw_series(axes, [right])
    blind = 100 * numbers(line, "blind")
    axes.plot(at, blind, color="0.35", lw=0.8, ls=(0, (2, 1.5)), gid="blind")
    note(axes, axes.plot([], [], color="0.35", lw=0.8, ls=(0, (2, 1.5)),
                         label="asked other items' questions")[0])  # fmt: skip
    axes.set_ylim(-4, 104)


def _name_steps(axes: Axes, steps: list[int], room: float) -> None:
    """As many steps under the columns as fit, the last one among them."""
    most = max(2, int(room / _STEP))
    apart = int(np.ceil((len(steps) - 1) / (most - 1))) if len(steps) > 1 else 1
    ticks = list(range(len(steps) - 1, -1, -apart))[::-1]
    axes.set_xticks([tick + 0.5 for tick in ticks], [f"{steps[tick]:g}" for tick in ticks])
