"""Layouts of tables of estimates in the one long table, read from what their analyses say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

# What a turned sign makes of bounds.
TURNED = {"low": "high", "high": "low", "low_run": "high_run", "high_run": "low_run"}


class QuantityRow(NamedTuple):
    """One row of the long table for each row of another."""

    fixed: dict[str, str]  # what it says in columns of the key
    values: dict[str, str]  # its columns of the long table, and theirs
    turned: frozenset[str]  # those whose sign is turned
    gains: bool  # whether gains keep their sign
    but: frozenset[str]  # columns of the other's key that it is not of


class TableLayout(NamedTuple):
    """Layout of a table's rows in the long one; the first has a row for each of them."""

    analysis: str  # the analysis that it comes from
    where: dict[str, str]  # columns of its key, and those of the long table
    rows: tuple[QuantityRow, ...]
    only: dict[str, list[str]]  # values by column; what has others is said by another table


class Meaning(NamedTuple):
    """A quantity in the vocabulary."""

    unit: str | None
    text: str


def layout(analysis: str, written: Mapping[str, Any]) -> TableLayout:
    """The layout that an analysis writes as ``[TABLE.estimates]``."""
    where = dict(_pair(entry) for entry in written["where"].split())
    always = {"analysis": analysis} | written.get("fixed", {})
    rows = tuple(_quantity(row, always) for row in written["rows"])
    return TableLayout(analysis, where, rows, written.get("only", {}))


def parse_meaning(written: str) -> Meaning:
    """The meaning of a quantity, from ``UNIT: WORDS``."""
    unit, _, words = written.partition(": ")
    return Meaning(unit or None, words)


def _pair(entry: str) -> tuple[str, str]:
    theirs, _, own = entry.partition("=")
    return theirs, own or theirs


def _quantity(row: Mapping[str, str], always: Mapping[str, str]) -> QuantityRow:
    values, turned = {}, set()
    for entry in row["values"].split():
        own, _, theirs = entry.partition("=")
        sign, theirs = theirs[:1] in ("-", "~"), theirs.lstrip("-~")
        every = {own: theirs}
        if own in ("ends", "run"):
            end = "_run" * (own == "run")
            every = {f"low{end}": f"{theirs}low", f"high{end}": f"{theirs}high"}
        for column, their in every.items():
            values[TURNED.get(column, column) if sign else column] = their
        turned |= {TURNED.get(column, column) for column in every} if sign else set()
    fixed = {name: text for name, text in row.items() if name not in ("values", "but")}
    return QuantityRow(
        dict(always) | fixed, values, frozenset(turned), "~" in row["values"],
        frozenset(row.get("but", "").split()),
    )  # fmt: skip
