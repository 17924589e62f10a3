"""Small multiples over tasks by layer: the panels, their names and their shared axes.

What is drawn into the panels is the business of ``accuracy`` and ``protocols``.
"""

from __future__ import annotations

import textwrap

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .grid import abreast, panel_grid
from .layer_axis import name_layers
from .lettering import characters, label
from .rows import rows
from .style import protocol_look
from .wording import CAPABILITY_ORDER, PROTOCOL_ORDER, in_order, joined, spread


def tasks_in_order(table: pd.DataFrame) -> list[str]:
    """The tasks of a table, grouped by capability."""
    return [
        str(task)
        for capability in in_order(table["capability"], CAPABILITY_ORDER)
        for task in in_order(rows(table, capability=capability)["task"], ())
    ]


def task_panels(
    shown: pd.DataFrame, width: float, height: float = 1.35
) -> tuple[Figure, dict[str, Axes]]:
    """A figure with a named panel for each task of an effects table."""
    tasks = tasks_in_order(shown)
    figure, panels = panel_grid(len(tasks), width, 1.6, height, extra=1.0)
    inches = figure.get_figwidth() / abreast(panels)
    for task, axes in zip(tasks, panels, strict=True):
        axes.set_title(_heading(rows(shown, task=task), inches - 0.5), loc="left", pad=3)
    return figure, dict(zip(tasks, panels, strict=True))


def by_protocol(mine: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The rows of each protocol, ordered by layer."""
    names = in_order(mine["protocol"], PROTOCOL_ORDER)
    return [(name, rows(mine, protocol=name).sort_values(by="layer")) for name in names]


def floor_of(line: pd.DataFrame) -> float:
    """The floor of a line of effects, in percent; stated chance in tables that have none."""
    floor = line["floor"].astype(float).iloc[0] if "floor" in line else np.nan
    return 100 * float(line["chance"].iloc[0] if np.isnan(floor) else floor)


def _heading(mine: pd.DataFrame, inches: float) -> str:
    first, fits = mine.iloc[0], characters(inches)
    lines = [label(str(first["task"]), fits)]
    lines.append(f"{label(str(first['capability']), 12)}, n = {spread(mine['n_items'])}")
    dull = [label(p, 14) for p, line in by_protocol(mine) if not line["signal"].iloc[0]]
    if dull:
        lines += textwrap.wrap(f"no signal: {joined(dull)}", fits)
    return "\n".join(lines)


def finish_panels(figure: Figure, panels: list[Axes], layers: list[int], unit: str) -> None:
    """Ticks, limits and names of the axes that all panels share."""
    n = abreast(panels)
    room = figure.get_figwidth() / n - 0.6
    panels[0].set_xlim(layers[0] - 0.6, layers[-1] + 0.6)
    for axes in panels:
        name_layers(axes, "x", layers, room, 0.24)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels[::n]:
        axes.set_ylabel(unit)
    for axes in panels[-n:]:
        axes.set_xlabel("layer")


def protocol_handles(shown: pd.DataFrame, lines: bool = True) -> list[Line2D]:
    """Legend entries for the protocols of a table; open markers where no lines are drawn."""
    handles = []
    for name in in_order(shown["protocol"], PROTOCOL_ORDER):
        seen = protocol_look(name)
        handle = Line2D([], [], color=seen.color, marker=seen.marker, ls=seen.linestyle)
        handle.set(ms=3, lw=0.9, label=label(name, 14))
        if not lines:
            handle.set(ls="", mfc="white")
        handles.append(handle)
    return handles
