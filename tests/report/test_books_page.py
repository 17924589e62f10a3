"""The page's part on what a passage protects: its figure, captions, tables and silence."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
import pytest
from matplotlib.lines import Line2D

from layerwise.analyses.ablation.page.sections import passages_section
from layerwise.analyses.registry import run_tables
from layerwise.report import figures, report
from layerwise.results import AblationResult
from tests.synthetic import ablation
from tests.test_books import asked_twice, planted_books


@cache
def passage_ablation(n_layers: int) -> AblationResult:
    """Three protocols."""
    parts = [
        planted_books(80, seed, n_layers).records.assign(protocol=protocol)
        for seed, protocol in enumerate(("letter", "continuation", "generate"))
    ]
    return ablation(*parts)


@pytest.fixture
def books() -> AblationResult:
    return passage_ablation(8)


def test_lines_and_marks_are_those_of_the_table(books: AblationResult) -> None:
    figure = figures.book_losses(books.books())
    for name in ("closed", "open"):
        drawn = [line for line in figure.findobj(Line2D) if line.get_gid() == f"share {name}"]
        marks = [line for line in figure.findobj(Line2D) if line.get_gid() == f"more {name}"]
        assert len(drawn) == len(marks) == 3
        shares = {tuple(np.round(line.get_ydata(), 6)) for line in drawn}
        layers = {tuple(np.asarray(mark.get_xdata(), dtype=int)) for mark in marks}
        for _, mine in books.books().groupby("protocol"):
            assert tuple(np.round(100 * mine[f"share_{name}"].to_numpy(), 6)) in shares
            assert tuple(mine.loc[mine["loses_more"] == name, "layer"]) in layers


@pytest.mark.long
def test_the_page_has_the_figure_the_tables_and_the_sentence():
    page = report([planted_books()]).html
    assert "What a passage protects" in page
    assert "told without the passage and read with it, skipping one layer" in page
    assert "loses more answers of told without the passage than with it" in page
    assert "With and without the passage, change by change (8)" in page


@pytest.mark.long
def test_pairs_without_signal_are_named_and_no_pairs_have_no_part(books: AblationResult) -> None:
    rng = np.random.default_rng(0)
    guessed = np.repeat(rng.random((60, 1)) < 0.25, 9, axis=1)
    silent = passages_section(run_tables([ablation(asked_twice(guessed, ~guessed))]))
    assert "there is none of told when it chooses" in silent.words
    assert [table.title for table in silent.tables] == ["Pairs of tasks"]
    assert not silent.drawings
    alone = replace(books, records=books.records.assign(closed_book=pd.NA))
    assert not passages_section(run_tables([alone])).tables
