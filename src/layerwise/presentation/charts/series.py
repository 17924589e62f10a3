"""Estimates with their intervals along an axis, as lines, accuracies and ranges take them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from layerwise.presentation.naming import name_layer
from layerwise.presentation.rows import numbers, records
from layerwise.presentation.section import basis, bounds, change_of
from layerwise.presentation.style import Look
from layerwise.presentation.wording import number


@dataclass(frozen=True)
class Words:
    """What marks mean, for the legend; what does not occur is not in it."""

    sure: str = ""
    unsure: str = ""
    interval: str = ""


NO_WORDS = Words()


@dataclass(frozen=True)
class Series:
    """A line or points with intervals.

    Attributes:
        name: what its artists are known by.
        look: its colour, marker and dashes.
        at: places along the axis.
        middle: estimates.
        low: lower bounds; None if there are no intervals.
        high: upper bounds.
        sure: which markers are filled; None for all.
        label: in the legend; not there if empty.
        band: intervals are a band, not bars.
        line: points are joined.
        pale: without signal.
        every: one marker in so many places.
        over_layers: places are layers; a line has a gap between encoder and decoder.
        tooltips: the text of each point's tooltip.
        changes: whose items changed at each point.
    """

    name: str
    look: Look
    at: np.ndarray
    middle: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    sure: np.ndarray | None = None
    label: str = ""
    band: bool = True
    line: bool = True
    pale: bool = False
    every: int = 1
    over_layers: bool = False
    tooltips: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()


def series(
    table: pd.DataFrame,
    name: str,
    look: Look,
    y: str,
    *,
    x: str = "layer",
    at: np.ndarray | None = None,
    ends: tuple[str, str] | None = None,
    scale: int = 1,
    unit: str = "",
    sure: str | None = None,
    label: str = "",
    **how: Any,
) -> Series:
    """A series from a table with a row for each point."""
    middle = scale * numbers(table, y)
    low, high = (scale * numbers(table, end) for end in ends) if ends else (None, None)
    at = numbers(table, x) if at is None else at
    places = [name_layer(int(value)) if x == "layer" else str(value) for value in table[x]]
    digits = 0 if scale == 100 else 2
    texts = [
        (bounds(row, y, *ends, scale, digits) if ends else number(scale * row[y], digits))
        + f"{unit}{basis(row)}"
        for row in records(table)
    ]
    tooltips = tuple(
        f"{label and label + ', '}{x} {place}: {text}"
        for place, text in zip(places, texts, strict=True)
    )
    return Series(
        name, look, at, middle, low, high,
        None if sure is None else table[sure].isin([True]).to_numpy(dtype=bool), label,
        tooltips=tooltips, changes=tuple(map(change_of, records(table))),
        over_layers=x == "layer", **how,
    )  # fmt: skip
