"""Columns of tables of text, described once for the page and for the short view of a notebook.

Which columns a table has is settled by its analysis. No HTML is written here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from layerwise.storage.base import Result
from layerwise.storage.run_tables import RunTables

from .naming import model_layer_names, name_layer
from .rows import records, rows
from .section import Table, bounds, not_shown_note
from .wording import WAY, number, protocol_words

Row = dict[str, Any]


@dataclass(frozen=True)
class Column:
    """A column of a table of text."""

    head: str  # what it is, and its unit
    text: Callable[[Row], str]  # what it says of a row
    with_interval: bool = False  # whether that is an estimate with its 95 % interval


def plain(*names: str) -> tuple[Column, ...]:
    """Columns of texts and whole numbers under their own names; a protocol in words."""
    return tuple(_SCORED if name == "protocol" else text_column(name, name) for name in names)


def text_column(head: str, name: str) -> Column:
    """A column of texts or whole numbers; a dash where there is none."""
    return Column(head, lambda row: "–" if pd.isna(row[name]) else str(row[name]))


def number_column(head: str, name: str, scale: int = 1, digits: int = 0) -> Column:
    """A column of numbers, in units of one by ``scale``; a dash where there is none."""
    return Column(
        head, lambda row: "–" if pd.isna(row[name]) else number(scale * row[name], digits)
    )


def estimate_column(head: str, middle: str, ends: str, scale: int = 1, digits: int = 0) -> Column:
    """Estimates with their intervals, as ``bounds`` writes them."""
    low, high = f"{ends}low", f"{ends}high"
    return Column(head, lambda row: bounds(row, middle, low, high, scale, digits), True)


def p_column(head: str, name: str) -> Column:
    """A column of p-values; a dash where there is none."""
    return Column(head, lambda row: "–" if pd.isna(row[name]) else f"{row[name]:.3g}")


def yes_no_column(head: str, name: str) -> Column:
    """A column of yes and no."""
    return Column(head, lambda row: "yes" if row[name] else "no")


_SCORED = Column(WAY, lambda row: protocol_words(row["protocol"]))
LAYER = Column("layer", lambda row: name_layer(row["layer"]))


def heads(columns: Sequence[Column]) -> tuple[str, ...]:
    """The heads of columns."""
    return tuple(column.head for column in columns)


def cells(columns: Sequence[Column], table: pd.DataFrame) -> list[list[str]]:
    """The rows of a table as text."""
    return [[column.text(row) for column in columns] for row in records(table)]


def as_text(
    title: str, columns: Sequence[Column], table: pd.DataFrame, *, most: int = 2000,
    where: str = "", collapsed: bool = True,
) -> Table:  # fmt: skip
    """The first rows of a table as text; the title may name ``{n}`` and ``{shown}`` of them."""
    shown = cells(columns, table.head(most))
    named, note = (
        title.format(n=len(table), shown=len(shown)),
        not_shown_note(len(table), len(shown), where),
    )
    return Table(named, heads(columns), shown, collapsed, note)


def run_table_as_text(
    run: RunTables, name: str, title: str, columns: Sequence[Column], *, by: str = "",
    most: int = 2000, collapsed: bool = True, **values: Any,
) -> list[Table]:  # fmt: skip
    """A run's table as text, of rows with some values by rising ones of a column; none without."""
    table = run.table(name)
    chosen = None if table is None else rows(table, **values)
    if chosen is None or chosen.empty:
        return []
    ranked = chosen.sort_values(by, kind="stable") if by else chosen
    where = f"rows are in {run.file(name)}"
    return [as_text(title, columns, ranked, most=most, where=where, collapsed=collapsed)]


def in_short(result: Result, columns: Sequence[Column], table: pd.DataFrame) -> pd.DataFrame:
    """Rows of a result's table as a notebook shows them: the page's words, its layers named."""
    shown = [f"{column.head} [95 %]" if column.with_interval else column.head for column in columns]
    with model_layer_names(result.facts.model):
        return pd.DataFrame(cells(columns, table), columns=shown)


def drop_columns(columns: Sequence[Column], *names: str) -> tuple[Column, ...]:
    """The columns but for those with some heads."""
    missing = set(names) - set(heads(columns))
    if missing:
        raise KeyError(f"No column {', '.join(sorted(missing))} among {', '.join(heads(columns))}.")
    return tuple(column for column in columns if column.head not in names)
