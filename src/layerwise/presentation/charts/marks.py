"""Levels and marks of one look, each explained once in the figure's legend."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from layerwise.presentation.style import NOTE, figure_from_axes

PALE = 0.35
DOTTED, DASHED = (0, (1, 1.2)), (0, (6, 2))


def level(
    axes: Axes, value: float | int, *, upright: bool = False, gid: str = "level", label: str = "",
    **given: Any,
) -> None:  # fmt: skip
    """A line across the panel at a value, grey in the legend."""
    looks: dict[str, Any] = {"color": "0.6", "lw": 0.7, "zorder": 0.5} | given
    (axes.axvline if upright else axes.axhline)(value, gid=gid, **looks)
    if label:
        note(axes, Line2D([], [], **looks | {"color": NOTE, "alpha": 1.0}, label=label))


def points(
    axes: Axes, x: Any, y: Any, marker: str, gid: str, label: str = "", **given: Any
) -> None:
    """Marks of one look, explained in the legend if there are any."""
    looks: dict[str, Any] = {"ls": "", "marker": marker, "ms": 5.0, "color": "0.15"} | given
    axes.plot(x, y, gid=gid, **looks)
    if label and np.size(x):
        of_place = ("transform", "clip_on", "zorder")
        kept = {name: looks[name] for name in looks if name not in of_place}
        kept |= {"ms": max(3.2, looks["ms"]), "alpha": 1.0}
        note(axes, Line2D([], [], **kept, label=label))


def note(axes: Axes, handle: Line2D | Patch) -> None:
    """Explain a mark in the figure's legend, once."""
    figure_from_axes(axes).notes.setdefault(str(handle.get_label()), handle)
