"""Columns of verdicts as text, for the page and a notebook's short view, and their words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from layerwise.presentation.columns import Column, p_column, plain, text_column
from layerwise.presentation.rows import records
from layerwise.presentation.wording import interval, number, protocol_words
from layerwise.storage.run_tables import RunTables
from layerwise.tasks import PROTOCOLS

from .verdicts.claim import Verdict

# Units of which whole numbers are shown.
_WHOLE = ("%", "accuracy", "of ")


def claim_name(row: dict[str, Any]) -> str:
    """``"song-4, knowledge"``: a claim, and its part where it has several."""
    return f"{row['claim']}, {part_words(row)}" if row["part"] else str(row["claim"])


def part_words(row: dict[str, Any]) -> str:
    """The part that a verdict is of; a way of scoring in everyday words."""
    part = str(row["part"])
    return protocol_words(part) if part in PROTOCOLS else part


def effect_words(row: dict[str, Any]) -> str:
    """``"13 [2, 24] % of the score"``: a verdict's number with its interval and unit."""
    if pd.isna(row["estimate"]):
        return "–"
    digits = _digits(row)
    if pd.isna(row["low"]):
        return f"{number(row['estimate'], digits)} {row['unit']}"
    return f"{interval(row['estimate'], row['low'], row['high'], digits)} {row['unit']}"


def _digits(row: dict[str, Any]) -> int:
    return 0 if str(row["unit"]).startswith(_WHOLE) else 2


def seen_words(row: dict[str, Any]) -> str:
    """``"18"``: of an open claim, the effect that would have been shown in 8 of 10 runs."""
    if row["verdict"] != Verdict.OPEN or pd.isna(row["smallest"]):
        return "–"
    return number(row["smallest"], _digits(row))


def verdict_lines(run: RunTables) -> Iterator[str]:
    """``"song-9        holds          13 [2, 24] % of the score"``: a line of text a verdict."""
    table = run.table("verdicts")
    for row in [] if table is None else records(table):
        number = effect_words(row) if pd.notna(row["estimate"]) else ""
        yield f"{claim_name(row):<30}{row['verdict']:<21}{number}".rstrip()


SHORT = (
    Column("claim", claim_name),
    text_column("verdict", "verdict"),
    Column("number", effect_words),
    text_column("of", "effect"),
    p_column("p (all claims)", "p_run"),
)
COLUMNS = (
    Column("claim", claim_name),
    *plain("source", "sentence", "verdict"),
    Column("number [95 %]", effect_words),
    text_column("what it is", "effect"),
    text_column("n", "n_items"),
    p_column("p", "p"),
    p_column("p (all claims)", "p_run"),
    Column("would be seen from", seen_words),
    text_column("note", "note"),
)
