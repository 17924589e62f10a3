"""The cells of a grid, as values: what they hold, how they are named and coloured."""

from __future__ import annotations

from dataclasses import dataclass, field

import pandas as pd

# How values become colours: shares from 0 to 1, amounts from 0 to the largest, or both signs.
SHARE, AMOUNT, SIGNED = "share", "amount", "signed"


@dataclass(frozen=True)
class Panel:
    """One heat map of a grid.

    Attributes:
        name: its title; empty if it is the only one.
        rows: names of its rows, from the first.
        columns: names of its columns.
        row_axis: what the rows are.
        column_axis: what the columns are.
    """

    name: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    row_axis: str = "layer"
    column_axis: str = "token"


@dataclass(frozen=True, eq=False)
class Cells:
    """What was seen in a prompt, cell by cell.

    Attributes:
        title: what it shows.
        table: one row per cell: ``panel``, ``row``, ``column`` (from 0), ``value`` (the colour),
            ``text`` (in the cell), ``details`` (under the pointer), and what else is known of it.
        panels: the heat maps.
        unit: what ``value`` is, with its unit.
        scale: ``share`` (0 to 1), ``amount`` (0 to the largest) or ``signed``.
        notes: sentences under it, such as what was cut off.
        upward: whether the first row is drawn at the bottom.
    """

    title: str
    table: pd.DataFrame
    panels: tuple[Panel, ...]
    unit: str
    scale: str = SHARE
    notes: tuple[str, ...] = ()
    upward: bool = True
    limits: tuple[float, float] = field(init=False)

    def __post_init__(self) -> None:
        values = [abs(value) for value in self.table["value"].dropna().tolist()]
        largest = max(values, default=1.0)
        largest = 1.0 if self.scale == SHARE else largest or 1.0
        object.__setattr__(self, "limits", (-largest if self.scale == SIGNED else 0.0, largest))
