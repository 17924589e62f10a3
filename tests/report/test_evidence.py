"""Tables of the page: rows that a sentence stands on, and those that a notebook shows, too."""

from __future__ import annotations

import pandas as pd
import pytest

from layerwise.presentation.claim import IN_TABLE, MOST, Claim, evidence, source
from layerwise.presentation.columns import (
    cells,
    estimate_column,
    number_column,
    p_column,
    plain,
    text_column,
    yes_no_column,
)
from layerwise.presentation.rows import rows
from layerwise.presentation.section import Table
from layerwise.report._layers import sections
from layerwise.report._page import claim_evidence
from layerwise.report.html import findings_from_tables
from layerwise.results import AblationResult, EmergenceResult, PatchingResult


@pytest.mark.long
def test_every_sentence_of_a_page_opens_to_its_rows(small_run, page):
    found = findings_from_tables(small_run)
    assert len(found) > 3
    for claim in found:
        table = claim_evidence(small_run, claim)
        assert table.collapsed
        assert table.cells
        assert all(len(row) == len(table.columns) for row in table.cells)
        assert all(f"{name} " in table.note for name in claim.source["where"])
        assert f"<summary>{table.title}</summary>" in page.html


def make_claim(where: dict) -> Claim:
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
    claim = make_claim(source("effects", where, **at))
    shown = evidence(claim, table, "estimates.parquet")
    assert shown.title == "2 rows of estimates.parquet"
    assert shown.columns == ("layer", "share", "significant")
    assert shown.cells == [["0", "0.1235", "yes"], ["1", "", "no"]]
    assert shown.note == (
        "Rows with task facts, layer 0 or 1: 2 rows of the 20 that the sentence is about. "
        "Alike in all shown: task facts, tasks a, b."
    )
    assert len(rows(table, **where, **at)) == 2


def test_one_row_is_turned(table):
    claim = make_claim(source("effects", {"task": "facts"}, layer=0))
    shown = evidence(claim, table, "estimates.parquet")
    assert shown.columns == ("column", "value")
    assert shown.cells == [
        ["task", "facts"], ["layer", "0"], ["share", "0.1235"], ["tasks", "a, b"],
        ["significant", "yes"],
    ]  # fmt: skip
    assert (
        shown.note == "Rows with task facts, layer 0: 1 row of the 20 that the sentence is about."
    )


def test_of_many_rows_the_first_are_shown(table):
    claim = make_claim(source("effects", {"task": "facts"}))
    shown = evidence(claim, table, "estimates.parquet")
    assert len(shown.cells) == MOST
    assert f"20 rows, the first {MOST} shown." in shown.note


ROWS = pd.DataFrame(
    {"task": ["keys", "sums"], "n": [12, pd.NA], "acc": [0.5, 0.25], "acc_low": [0.4, float("nan")],
     "acc_high": [0.6, 0.3], "p": [0.01234, 1.0], "sure": [True, False]}
)  # fmt: skip
COLUMNS = (
    *plain("task"), text_column("items", "n"), number_column("accuracy (%)", "acc", 100),
    estimate_column("loss (points)", "acc", "acc_", -100), p_column("p (Holm)", "p"),
    yes_no_column("significant", "sure"),
)  # fmt: skip


def test_columns_say_rows_in_their_units():
    assert cells(COLUMNS, ROWS) == [
        ["keys", "12", "50", "−50 [−60, −40]", "0.0123", "yes"],
        ["sums", "–", "25", "−25 [−30, ?]", "1", "no"],
    ]


@pytest.fixture(scope="module")
def page_tables(run) -> list[Table]:
    """The tables of the page."""
    return [table for section in sections(run) for table in section.tables]


@pytest.mark.long
@pytest.mark.parametrize(
    ("kind", "title"),
    [
        (AblationResult, "All effects ("),
        (PatchingResult, "Patched cells by share"),
        (EmergenceResult, "Depths and critical sets"),
    ],
)
def test_the_short_view_says_what_the_page_says(results, page_tables, kind, title):
    (result,) = [result for result in results if isinstance(result, kind)]
    (page,) = [table for table in page_tables if table.title.startswith(title)]
    short = result.summary_rows()
    short.columns = [name.removesuffix(" [95 %]") for name in short.columns]
    both = [name for name in short.columns if name in page.columns]
    assert len(both) >= 5
    whole = pd.DataFrame(page.cells, columns=list(page.columns))[both]
    told = set(whole.itertuples(index=False, name=None))
    assert len(short)
    assert set(short[both].itertuples(index=False, name=None)) <= told
