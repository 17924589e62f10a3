"""Estimates with their intervals beside each other: a row for each name, a look for each series."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from layerwise.presentation.lettering import label
from layerwise.presentation.rows import rows
from layerwise.presentation.style import Look

from .lines import draw_series
from .series import NO_WORDS, Series, Words, series

Group = tuple[dict[str, Any], Look, str]
"""The rows of a series by values in their columns, its look, and its name in the legend."""


def ranges(
    table: pd.DataFrame,
    names: Sequence[Any],
    named: str,
    groups: Sequence[Group],
    columns: tuple[str, str, str] = ("estimate", "low", "high"),
    *,
    span: float = 0.8,
    **how: Any,
) -> list[Series]:
    """Series of points with intervals, a row for each name and side by side within it."""
    middle, *ends = columns
    apart = span / len(groups)
    shown = []
    for i, (where, look, name) in enumerate(groups):
        of_group = rows(table, **where)
        at = np.array([names.index(label) for label in of_group[named]], dtype=float)
        at += apart * (i - (len(groups) - 1) / 2)
        shown.append(
            series(of_group, name or "estimate", look, middle, x=named, at=at,
                   ends=(ends[0], ends[1]), label=name, band=False, line=False, **how)
        )  # fmt: skip
    return shown


def draw_ranges(
    axes: Axes,
    names: Sequence[str],
    shown: Sequence[Series],
    words: Words = NO_WORDS,
    *,
    longest: int = 14,
) -> None:
    """Draw points with intervals beside the names of their rows."""
    draw_series(axes, shown, words, upright=True)
    axes.set_yticks(range(len(names)), [label(name, longest) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="x", color="0.9", lw=0.5)
