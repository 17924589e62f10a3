"""The rows of a saved table that a sentence stands on, as the sentence opens to them on a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from .claim import Claim
from .rows import rows
from .section import Table
from .wording import ranges

# Rows that are shown under a sentence; the file has the others.
MOST = 10
_NAMED = ("layers", "heads")


def evidence(finding: Claim, table: pd.DataFrame, file: str) -> Table:
    """The rows that a claim quotes, or is about if it quotes none, as they are in their file."""
    about = rows(table, **finding.source["where"])
    quoted = rows(about, **finding.source["at"])
    named = list(_NAMED) if {"intervention", "layer"} <= set(quoted.columns) else []
    few = quoted.head(MOST).drop(columns=named, errors="ignore")
    shown = few.dropna(axis="columns", how="all")
    texts = {str(name): [_text(value) for value in shown[name]] for name in shown}
    cells = [list(row) for row in zip(*texts.values(), strict=True)]
    columns, cells, alike = narrowed(tuple(texts), cells)
    cells = cells[:1] if len({tuple(row) for row in cells}) == 1 else cells
    if len(columns) >= 2 * len(cells):  # what is wide and low is turned
        heads = map(str, range(1, len(cells) + 1)) if len(cells) > 1 else ["value"]
        columns, cells = (
            ("column", *heads),
            [list(row) for row in zip(columns, *cells, strict=True)],
        )
    of = f" of the {len(about)} that the sentence is about" if len(about) > len(quoted) else ""
    more = f", the first {len(shown)} shown" if len(quoted) > len(shown) else ""
    plural = "" if len(quoted) == 1 else "s"
    return Table(
        f"{len(quoted)} row{plural} of {file}",
        columns,
        cells,
        collapsed=True,
        note=f"{_picked(finding.source)}: {len(quoted)} row{plural}{of}{more}.{alike}",
    )


def narrowed(
    columns: Sequence[str], cells: list[list[str]]
) -> tuple[tuple[str, ...], list[list[str]], str]:
    """Columns that say more than one thing, their cells, and a sentence with what is alike in all.

    A table of one row, or of rows that are all alike, keeps its columns.
    """
    apart = [i for i, _ in enumerate(columns) if len({row[i] for row in cells}) > 1]
    if not apart:
        return tuple(columns), cells, ""
    alike = [f"{name} {cells[0][i]}" for i, name in enumerate(columns) if i not in apart]
    kept = [[row[i] for i in apart] for row in cells]
    note = f" Alike in all shown: {', '.join(alike)}." if alike else ""
    return tuple(columns[i] for i in apart), kept, note


def _picked(source: Mapping[str, Any]) -> str:
    """Which rows these are, by the values of their columns."""
    named = {**source["where"], **source["at"]}
    return "Rows with " + ", ".join(f"{name} {_values(value)}" for name, value in named.items())


def _values(value: Any) -> str:
    return " or ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _text(value: Any) -> str:
    if isinstance(value, list | tuple | np.ndarray):
        if len(value) > 2 and all(isinstance(number, int | np.integer) for number in value):
            return ranges(value)
        return ", ".join(map(_text, value))
    if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return ""
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float | np.floating) else str(value)
