"""Layers by heads in colour, a panel for each table."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from layerwise.presentation.layer_axis import layer_ticks, name_layers
from layerwise.presentation.naming import name_layer, stacks
from layerwise.presentation.rows import layers_of, numbers
from layerwise.presentation.wording import number

from .heat import ABSENT, Mark, Row, cells, draw_heat
from .panels import Bar, Panels, rows_and_columns

_LEAST, _TICK = 1.45, 0.24
Column = tuple[str, int]
"""A group of heads by its letter, and a head of it; -1 for what is no head and named instead."""


def head_maps(
    shown: Sequence[tuple[Sequence[str], pd.DataFrame]],
    value: str,
    bar: Bar,
    title: str,
    width: float,
    *,
    heads: str = "head",
    columns: Sequence[Column] | None = None,
    mark: str = "",
    marked: str = "significant",
    tell: Callable[[Row], str] | None = None,
) -> Figure:
    """Layers by heads, a panel for each table; grey is not there or has no number."""
    marks, words = (
        [Mark(mark, lambda row: row[marked] is True)],
        tell or (lambda row: number(row[value], 2)),
    )
    every = pd.concat([table for _, table in shown])
    layers = layers_of(every)
    if columns is None:
        columns = [("", head) for head in sorted({int(head) for head in every["head"]})]
    down, _ = rows_and_columns(len(shown), width, _LEAST)
    height = height_of(len(layers), 0.11, 3.6 if down == 1 else 2.2)
    panels = Panels([lines for lines, _ in shown], width, (height,), least=_LEAST, most=2.4)
    for axes, (_, table) in zip(panels.flat, shown, strict=True):
        if "column" not in table:
            table = table.assign(column=[("", int(head)) for head in table["head"]])
        drawn = cells(
            table, value, ("layer", layers), ("column", columns), marks,
            lambda row: f"{name_layer(row['layer'])}.{_column(*row['column'])}: {words(row)}",
        )  # fmt: skip
        draw_heat(axes, drawn, bar, (panels.room, height), absent=ABSENT)
        _name_columns(axes, columns, panels.room)
        name_layers(axes, "y", layers, height, cells=True)
    return panels.finish(title, heads, ["layer"], bar)


def _column(group: str, head: int) -> str:
    return group if head < 0 else f"{group}{head}"


def _name_columns(axes: Axes, columns: Sequence[Column], room: float) -> None:
    """Numbers of heads as they fit, and a line between groups of them."""
    ticks, column, start = {}, room / len(columns), len(columns)
    for group in reversed(list(dict.fromkeys(group for group, _ in columns))):
        heads = [head for of, head in columns if of == group]
        size = _TICK + 0.06 * len(group)
        for head in heads if heads == [-1] else layer_ticks(heads, column * len(heads), size):
            place = columns.index((group, head))
            if start == len(columns) or (start - place) * column > 0.3:
                ticks[place] = _column(group, head)
        start = columns.index((group, heads[0]))
        if start:
            axes.axvline(start, color="0.6", lw=0.5)
    axes.set_xticks([place + 0.5 for place in ticks], list(ticks.values()))


def height_of(n_layers: int, each: float, most: float) -> float:
    """Inches of a map of layers from above, with room for the names of stacks along its axis."""
    return float(np.clip(each * n_layers, 1.1 if stacks().n_encoder else 0.8, most))


def limit_of(table: pd.DataFrame, column: str) -> float:
    """The share at which colours end: the largest in a column, rounded up, from 0.1 to 1."""
    largest = np.nanmax(np.abs(numbers(table, column)), initial=0.0)
    return min(1.0, max(0.1, math.ceil(10 * float(largest)) / 10))
