"""A table is described once: a notebook's short view says what the page says of the same rows."""

from __future__ import annotations

import pandas as pd
import pytest

from layerwise.presentation.columns import (
    cells,
    decided,
    estimated,
    heads,
    named,
    numbered,
    p_column,
    plain,
    without,
)
from layerwise.presentation.section import Table
from layerwise.report._layers import sections
from layerwise.results import AblationResult, EmergenceResult, PatchingResult

ROWS = pd.DataFrame(
    {"task": ["keys", "sums"], "n": [12, pd.NA], "acc": [0.5, 0.25], "acc_low": [0.4, float("nan")],
     "acc_high": [0.6, 0.3], "p": [0.01234, 1.0], "sure": [True, False]}
)  # fmt: skip
COLUMNS = (
    *plain("task"), named("items", "n"), numbered("accuracy (%)", "acc", 100),
    estimated("loss (points)", "acc", "acc_", -100), p_column("p (Holm)", "p"),
    decided("significant", "sure"),
)  # fmt: skip


def test_columns_say_rows_in_their_units():
    assert cells(COLUMNS, ROWS) == [
        ["keys", "12", "50", "−50 [−60, −40]", "0.0123", "yes"],
        ["sums", "–", "25", "−25 [−30, ?]", "1", "no"],
    ]


def test_columns_are_left_out_by_their_heads():
    assert heads(without(COLUMNS, "items", "p (Holm)")) == (
        "task", "accuracy (%)", "loss (points)", "significant",
    )  # fmt: skip
    with pytest.raises(KeyError, match="No column p among task, items"):
        without(COLUMNS, "p")


@pytest.fixture(scope="module")
def shown(run) -> list[Table]:
    """The tables of the page."""
    return [table for section in sections(run) for table in section.tables]


@pytest.mark.parametrize(
    ("kind", "title"),
    [
        (AblationResult, "All effects ("),
        (PatchingResult, "Patched cells by share"),
        (EmergenceResult, "Depths and critical sets"),
    ],
)
def test_the_short_view_says_what_the_page_says(results, shown, kind, title):
    (result,) = [result for result in results if isinstance(result, kind)]
    (page,) = [table for table in shown if table.title.startswith(title)]
    short = result.summary_rows()
    short.columns = [name.removesuffix(" [95 %]") for name in short.columns]
    both = [name for name in short.columns if name in page.columns]
    assert len(both) >= 5
    whole = pd.DataFrame(page.cells, columns=list(page.columns))[both]
    told = set(whole.itertuples(index=False, name=None))
    assert len(short)
    assert set(short[both].itertuples(index=False, name=None)) <= told
