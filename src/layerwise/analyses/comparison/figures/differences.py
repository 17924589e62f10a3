"""Differences between runs or groups with their intervals, a figure for each family.

It reads a comparison's table of differences only.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from layerwise.analyses.comparison.compared import AXES, MEASURES, UNITS
from layerwise.analyses.emergence.figures import METHODS
from layerwise.presentation.grid import abreast, legend_below, panel_grid, set_title
from layerwise.presentation.lettering import characters, label
from layerwise.presentation.rows import numbers, records, rows
from layerwise.presentation.style import FULL_WIDTH, look, styled
from layerwise.presentation.wording import CAPABILITY_ORDER, PROTOCOL_ORDER, in_order

_PAIR, _GAP, _LEAST = 0.105, 0.09, 2.1


@styled
def difference_ranges(differences: pd.DataFrame, family: str, width: float = FULL_WIDTH) -> Figure:
    """Differences of one family, second minus first.

    Args:
        differences: the table ``comparison_differences.parquet``, with the family.
        family: ``accuracy``, ``depth`` or ``share lost``.
        width: the widest the figure may be, inches.

    Returns:
        A panel per measure, method, protocol and axis; a row per task (accuracies) or
        capability, a point with its 95 % interval for each pair. Filled: different from 0
        after Holm's correction over the family.
    """
    shown = rows(differences, family=family, measure=MEASURES)
    row_of = "tasks" if family == "accuracy" else "capability"
    names = [
        str(name)
        for capability in in_order(shown["capability"], CAPABILITY_ORDER)
        for name in in_order(rows(shown, capability=capability)[row_of], ())
    ]
    pairs = in_order(zip(shown["first"], shown["second"], strict=True), ())
    plan = _plan(shown)
    height = len(names) * (_PAIR * len(pairs) + _GAP) + 0.5
    figure, panels = panel_grid(len(plan), width, _LEAST, height, extra=1.1)
    unit, scale = UNITS[family]
    inches = figure.get_figwidth() / abreast(panels)
    for axes, key in zip(panels, plan, strict=True):
        _draw(axes, _of(shown, key), names, pairs, row_of, scale)
        axes.set_title(heading(*key, characters(inches - 0.4)), loc="left", pad=2)
    values = scale * np.abs([numbers(shown, name) for name in ("difference", "low", "high")])
    most = 1.08 * max(0.05 * scale, float(np.nanmax(values, initial=0.0)))
    panels[0].set_xlim(-most, most)
    for axes in panels[-abreast(panels) :]:
        axes.set_xlabel(unit)
    set_title(figure, f"Differences of {_TITLES[family]}, second minus first (95 % intervals)")
    legend_below(figure, [*_handles(pairs), _note()])
    return figure


_TITLES = {
    "accuracy": "intact accuracy",
    "depth": "depth",
    "share lost": "the share lost by third of the depth",
}


def _plan(shown: pd.DataFrame) -> list[tuple[str, str, str, str]]:
    orders = {"axis": AXES, "measure": MEASURES, "method": METHODS, "protocol": PROTOCOL_ORDER}
    there = set(zip(*(shown[name] for name in orders), strict=True))
    return sorted(
        there, key=lambda key: [_rank(*each) for each in zip(key, orders.values(), strict=True)]
    )


def _rank(name: str, order: tuple[str, ...]) -> tuple[int, str]:
    return (order.index(name) if name in order else len(order), name)


def _of(shown: pd.DataFrame, key: tuple[str, str, str, str]) -> pd.DataFrame:
    axis, measure, method, protocol = key
    return rows(shown, axis=axis, measure=measure, method=method, protocol=protocol)


def heading(axis: str, measure: str, method: str, protocol: str, fits: int) -> str:
    """A panel's name on two lines of so many characters: what is measured, and how."""
    within = "" if axis == AXES[0] else f", {axis} alone"
    way = "" if method == "intact model" else f"{label(method)}, "
    return f"{label(measure + within, fits)}\n{label(way + protocol, fits)}"


def _draw(
    axes: Axes,
    mine: pd.DataFrame,
    names: list[str],
    pairs: list[tuple[str, str]],
    row_of: str,
    scale: int,
) -> None:
    axes.axvline(0, color="0.5", lw=0.6)
    step = 0.8 / len(pairs)
    for row in records(mine):
        i = pairs.index((row["first"], row["second"]))
        seen, y = look(i), names.index(row[row_of]) + step * (i - (len(pairs) - 1) / 2)
        axes.plot([scale * row["low"], scale * row["high"]], [y, y], color=seen.color, lw=1.2,
                  gid="interval")  # fmt: skip
        axes.plot(
            [scale * row["difference"]], [y], marker=seen.marker, ms=3.6, mew=0.8,
            color=seen.color, mfc=seen.color if row["significant"] else "white", gid="difference",
        )  # fmt: skip
    axes.set_yticks(range(len(names)), [label(name, 18) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="x", color="0.9", lw=0.5)
    axes.spines[["top", "right"]].set_visible(False)


def _handles(pairs: list[tuple[str, str]]) -> list[Line2D]:
    found = []
    for i, (first, second) in enumerate(pairs):
        name = f"{label(second, 24)} minus {label(first, 24)}"
        handle = Line2D([], [], color=look(i).color, marker=look(i).marker, ms=3.6, lw=1.2)
        handle.set_label(name)
        found.append(handle)
    return found


def _note() -> Line2D:
    return Line2D([], [], ls="", marker="o", ms=3.6, mfc="white", mec="0.35",
                  label="hollow: no difference established (Holm)")  # fmt: skip
