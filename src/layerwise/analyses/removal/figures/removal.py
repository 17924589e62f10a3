"""Accuracy against the number of layers removed, a panel per task.

It reads a table of steps only.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from layerwise.analyses.removal.tables import BLOCKS, HELD_OUT, SELECTION, removed_label
from layerwise.presentation.grid import abreast, layer_ticks, legend_below, panel_grid, set_title
from layerwise.presentation.lettering import FONT, characters, label
from layerwise.presentation.naming import name_layer
from layerwise.presentation.panels import floor_of, tasks_in_order
from layerwise.presentation.rows import numbers, records, rows
from layerwise.presentation.style import FULL_WIDTH, look, styled

_LOOKS = {HELD_OUT: look(0), SELECTION: look(1)}
_WORDS = {HELD_OUT: "held-out items", SELECTION: "items selected by (optimistic)"}
_INTACT, _FLOOR = (0, (1, 1.2)), (0, (6, 2))
# What an upright label of a step takes along the axis, and the rest of a panel, in inches.
_LABEL, _MARGIN = 0.135, 0.75


@styled
def removal_curve(steps: pd.DataFrame, width: float = FULL_WIDTH) -> Figure:
    """Accuracy as layers are removed, on the items selected by and on those held out.

    Args:
        steps: the table ``removal_steps.parquet``.
        width: the widest the figure may be, inches.

    Returns:
        A panel per task, with what each step removed along its upper edge. Bands are the paired
        bootstrap intervals of the loss, drawn about the accuracy; dotted lines are the intact
        model's accuracy, dashed ones the floor: that without any layer, or stated chance where it
        was not measured. Without signal a line is pale and has no band.
    """
    tasks, last = tasks_in_order(steps), int(numbers(steps, "step").max())
    needed = min(width, max(2.2, _LABEL * last + _MARGIN))
    figure, panels = panel_grid(len(tasks), width, needed, 2.2, most=max(3.3, needed), extra=1.2)
    room = figure.get_figwidth() / abreast(panels) - _MARGIN
    panels[0].set_xlim(-0.5, last + 0.5)
    panels[0].set_ylim(-3, 103)
    panels[0].set_xticks(layer_ticks(range(last + 1), room, 0.24))
    for task, axes in zip(tasks, panels, strict=True):
        mine = rows(steps, task=task)
        for split in (SELECTION, HELD_OUT):
            line = rows(mine, split=split).sort_values(by="step")
            if len(line):
                _draw(axes, split, line)
        _name_steps(axes, mine, room)
        axes.set_title(_heading(mine, room), loc="left", pad=3)
    for axes in panels[:: abreast(panels)]:
        axes.set_ylabel("accuracy (%)")
    for axes in panels[-abreast(panels) :]:
        axes.set_xlabel("layers removed")
    first = steps.iloc[0]
    blocks = first["by"] in BLOCKS
    how = "without the best block of each size" if blocks else "as layers are removed one by one"
    set_title(figure, f"Accuracy under {label(str(first['protocol']))} {how}")
    legend_below(figure, _handles(steps))
    return figure


def _draw(axes: Axes, split: str, line: pd.DataFrame) -> None:
    seen, signal = _LOOKS[split], bool(line["signal"].iloc[0])
    alpha = 1.0 if signal else 0.35
    intact = 100 * float(line["acc_intact"].iloc[0])
    x = np.concatenate([[0], numbers(line, "step")])
    y = np.concatenate([[intact], 100 * numbers(line, "acc")])
    axes.plot(
        x, y, color=seen.color, marker=seen.marker, ls=seen.linestyle, ms=2.8, lw=0.9,
        alpha=alpha, gid=f"accuracy {split}",
    )  # fmt: skip
    axes.axhline(intact, lw=0.9, ls=_INTACT, color=seen.color, alpha=alpha, gid="intact")
    axes.axhline(floor_of(line), lw=0.8, ls=_FLOOR, color=seen.color, alpha=alpha, gid="floor")
    if signal:
        low, high = (
            np.concatenate([[intact], (intact - 100 * numbers(line, name)).clip(0, 100)])
            for name in ("acc_diff_high", "acc_diff_low")
        )
        axes.fill_between(x, low, high, color=seen.color, alpha=0.2, lw=0, gid=f"band {split}")


def _name_steps(axes: Axes, mine: pd.DataFrame, room: float) -> None:
    """What each step removed, upright along the upper edge."""
    listed = records(rows(mine, split=SELECTION).sort_values(by="step"))
    names = {
        int(row["step"]): removed_label(row["by"], row["layers"], name_layer) for row in listed
    }
    shown = layer_ticks(names, room, _LABEL)
    upper = axes.secondary_xaxis("top")
    upper.set_xticks(shown, [names[step] for step in shown], rotation=90, fontsize=FONT)
    upper.tick_params(length=0, pad=3.0)
    upper.set_gid("removed")
    blocks = listed[0]["by"] in BLOCKS
    upper.set_xlabel("block removed" if blocks else "layer removed", fontsize=FONT, labelpad=2)
    axes.spines[["top", "right"]].set_visible(False)


def _heading(mine: pd.DataFrame, inches: float) -> str:
    counts = [f"{split} n = {rows(mine, split=split)['n_items'].iloc[0]}" for split in _in(mine)]
    dull = [split for split in _in(mine) if not rows(mine, split=split)["signal"].iloc[0]]
    lines = [label(str(mine["task"].iloc[0]), characters(inches)), ", ".join(counts)]
    return "\n".join(lines + [f"no signal: {split}" for split in dull])


def _in(steps: pd.DataFrame) -> list[str]:
    return [split for split in (SELECTION, HELD_OUT) if len(rows(steps, split=split))]


def _handles(steps: pd.DataFrame) -> list[Line2D | Patch]:
    handles: list[Line2D | Patch] = []
    for split in _in(steps):
        seen = _LOOKS[split]
        handle = Line2D([], [], color=seen.color, marker=seen.marker, ls=seen.linestyle)
        handle.set(ms=3, lw=0.9, label=_WORDS[split])
        handles.append(handle)
    return [
        *handles,
        Line2D([], [], color="0.35", lw=0.9, ls=_INTACT, label="intact model"),
        Line2D([], [], color="0.35", lw=0.9, ls=_FLOOR, label="floor"),
        Patch(facecolor="0.6", alpha=0.35, label="95 % interval of the loss"),
    ]
