"""A sentence opens to the rows that it stands on, as they are in the file that is named."""

from __future__ import annotations

import pandas as pd
import pytest

from layerwise.presentation.claim import IN_TABLE, MOST, Claim, evidence, source
from layerwise.presentation.rows import rows
from layerwise.report._page import evidence_of
from layerwise.report.html import findings_of


def test_every_sentence_of_a_page_opens_to_its_rows(small_run, page):
    found = findings_of(small_run)
    assert len(found) > 3
    for claim in found:
        table = evidence_of(small_run, claim)
        assert table.collapsed
        assert table.cells
        assert all(len(row) == len(table.columns) for row in table.cells)
        assert all(f"{name} " in table.note for name in claim.source["where"])
        assert f"<summary>{table.title}</summary>" in page.html


def claim_of(where: dict) -> Claim:
    return Claim(kind="kind", short="A sentence.", evidence=IN_TABLE, source=where)


@pytest.fixture
def table() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "task": ["facts"] * 20 + ["brackets"],
            "layer": [*range(20), 0],
            "share": [0.123456, None, *[0.5] * 19],
            "head": [None] * 21,
            "tasks": [["a", "b"]] * 21,
            "significant": [True, False, *[True] * 19],
        }
    )


def test_rows_that_are_quoted_are_shown_of_those_that_the_sentence_is_about(table):
    where, at = {"task": "facts"}, {"layer": [0, 1]}
    claim = claim_of(source("effects", where, **at))
    shown = evidence(claim, table, "effects.parquet")
    assert shown.title == "2 rows of effects.parquet"
    assert shown.columns == ("layer", "share", "significant")
    assert shown.cells == [["0", "0.1235", "yes"], ["1", "", "no"]]
    assert shown.note == (
        "Rows with task facts, layer 0 or 1: 2 rows of the 20 that the sentence is about. "
        "Alike in all shown: task facts, tasks a, b."
    )
    assert len(rows(table, **where, **at)) == 2


def test_one_row_is_turned(table):
    claim = claim_of(source("effects", {"task": "facts"}, layer=0))
    shown = evidence(claim, table, "effects.parquet")
    assert shown.columns == ("column", "value")
    assert shown.cells == [
        ["task", "facts"], ["layer", "0"], ["share", "0.1235"], ["tasks", "a, b"],
        ["significant", "yes"],
    ]  # fmt: skip
    assert (
        shown.note == "Rows with task facts, layer 0: 1 row of the 20 that the sentence is about."
    )


def test_of_many_rows_the_first_are_shown(table):
    claim = claim_of(source("effects", {"task": "facts"}))
    shown = evidence(claim, table, "effects.parquet")
    assert len(shown.cells) == MOST
    assert f"20 rows, the first {MOST} shown." in shown.note
