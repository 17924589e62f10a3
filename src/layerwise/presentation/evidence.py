"""The rows of a saved table that a sentence stands on, as the sentence opens to them on a page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from .claim import Claim
from .rows import rows
from .section import Table
from .wording import ranges

# Rows that are shown under a sentence; the file has the others.
MOST = 12
_NAMED = ("layers", "heads")


def evidence(finding: Claim, table: pd.DataFrame, file: str) -> Table:
    """The rows that a claim quotes, or is about if it quotes none, as they are in their file."""
    about = rows(table, **finding.source["where"])
    quoted = rows(about, **finding.source["at"])
    named = list(_NAMED) if {"intervention", "layer"} <= set(quoted.columns) else []
    few = quoted.head(MOST).drop(columns=named, errors="ignore")
    shown = few.dropna(axis="columns", how="all")
    texts = {str(name): [_text(value) for value in shown[name]] for name in shown}
    same = {name: each[0] for name, each in texts.items() if len(set(each)) == 1}
    columns = tuple(name for name in texts if name not in same)
    cells = [list(row) for row in zip(*(texts[name] for name in columns), strict=True)]
    if not columns:  # one row, or all alike
        columns = ("column", "value")
        cells, same = [[name, value] for name, value in same.items()], {}
    of = f" of the {len(about)} that the sentence is about" if len(about) > len(quoted) else ""
    more = f", the first {len(shown)} shown" if len(quoted) > len(shown) else ""
    plural = "" if len(quoted) == 1 else "s"
    return Table(
        f"{len(quoted)} row{plural} of {file}",
        columns,
        cells,
        collapsed=True,
        note=f"{_picked(finding.source)}: {len(quoted)} row{plural}{of}{more}.{_alike(same)}",
    )


def _alike(same: Mapping[str, str]) -> str:
    """The columns that have one value in all rows."""
    if not same:
        return ""
    return f" Alike in all shown: {', '.join(f'{name} {value}' for name, value in same.items())}."


def _picked(source: Mapping[str, Any]) -> str:
    """Which rows these are, by the values of their columns."""
    named = {**source["where"], **source["at"]}
    return "Rows with " + ", ".join(f"{name} {_values(value)}" for name, value in named.items())


def _values(value: Any) -> str:
    return " or ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _text(value: Any) -> str:
    if isinstance(value, list | tuple | np.ndarray):
        if len(value) > 2 and all(isinstance(one, int | np.integer) for one in value):
            return ranges(value)
        return ", ".join(map(_text, value))
    if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return ""
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float | np.floating) else str(value)
