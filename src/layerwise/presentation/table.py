"""A table as rows of text for a page, and numbers with their intervals as such a text.

No HTML is written here; escaping is the template's business.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from .wording import interval


@dataclass(frozen=True)
class Table:
    """A table as text.

    Attributes:
        title: what it is.
        columns: the heads.
        cells: one list of texts per row.
        collapsed: whether it opens on demand only.
        note: what is to be said under it.
    """

    title: str
    columns: tuple[str, ...]
    cells: list[list[str]]
    collapsed: bool = False
    note: str = ""


def others(n_all: int, n_shown: int, where: str) -> str:
    """A note that some rows are not shown, and where they are; empty if all are shown."""
    left = n_all - n_shown
    return f"The other {left} {where}." if left > 0 else ""


def bounds(
    row: dict[str, Any], middle: str, low: str, high: str, scale: int, digits: int = 0
) -> str:
    """An estimate with its interval, in units of one by ``scale``; a dash if there is none."""
    if pd.isna(row[middle]):
        return "–"
    values = [scale * row[name] for name in (middle, *((low, high)[:: 1 if scale > 0 else -1]))]
    return interval(values[0], values[1], values[2], digits)
