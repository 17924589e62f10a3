"""The part of a page on what a passage protects: figures, tables, and which pairs say nothing."""

from __future__ import annotations

from functools import partial

import pandas as pd

from layerwise.presentation.columns import cells, heads
from layerwise.presentation.over_run import n_tests
from layerwise.presentation.rows import numbers, records, rows
from layerwise.presentation.section import FigureSpec, Section, Table, others
from layerwise.presentation.wording import doing, in_order, joined, spread_of
from layerwise.storage.run_tables import RunTables

from .columns import BOOK_PAIRS, BOOKS
from .findings_scoring import BOOKS as KIND
from .saved_effects import kinds_and_sites, single_layers

_MOST = 2000
_WORDS = (
    "The same questions with a passage that states the answer, and without it. A task that is "
    "answered more surely loses less under any damage. So a smaller loss with the passage does "
    "not show where knowledge is. The test takes the items that the intact model gets right both "
    "ways. It compares the answers that a layer loses without the passage only with those that it "
    "loses with the passage only. The passage protects if some layers lose more without it, and "
    "others more with it."
)


def books_section(run: RunTables) -> Section:
    """What a passage protects, a figure for each pair of tasks; empty where there is no pair."""
    books, pairs = run.table("books"), run.table("book_pairs")
    if pairs is None:
        return Section("books", "What a passage protects", 19, _WORDS)
    silent = _silent(pairs)
    words = f"{_WORDS} {silent}" if silent else _WORDS
    tables = [Table("Pairs of tasks", heads(BOOK_PAIRS), cells(BOOK_PAIRS, pairs))]
    if books is not None:
        ranked = books.sort_values("p", kind="stable")
        shown = cells(BOOKS, ranked.head(_MOST))
        note = others(len(ranked), len(shown), "rows are in books.parquet")
        title = f"With and without the passage, change by change ({len(ranked)})"
        tables.append(Table(title, heads(BOOKS), shown, True, note))
    return Section(
        "books",
        "What a passage protects",
        19,
        words,
        tuple(_figures(run)),
        tuple(tables),
        kinds=(KIND,),
    )


def _silent(pairs: pd.DataFrame) -> str:
    """The pairs of which nothing is claimed, and why, as a sentence."""
    named = [
        f"{joined(row[kind] for kind in ('closed', 'open') if not row[f'signal_{kind}'])} under "
        f"{row['protocol']}"
        for row in records(pairs)
        if not (row["signal_closed"] and row["signal_open"])
    ]
    return f"Nothing is claimed without signal of both: there is none of {joined(named)}." * bool(
        named
    )


def _figures(run: RunTables) -> list[FigureSpec]:
    from .figures_passages import book_losses

    books, figures = run.table("books"), []
    layers = pd.DataFrame() if books is None else single_layers(books)
    if books is None or layers.empty:
        return []
    kind, site = kinds_and_sites(layers)[0]
    shown = rows(layers, kind=kind, site=site)
    for closed, opened in in_order(zip(shown["closed"], shown["open"], strict=True), ()):
        own = rows(shown, closed=closed, open=opened)
        sure = own.loc[own["loses_more"].notna()]
        n_holding = int((numbers(sure, "p_run") < 0.05).sum())
        caption = (
            f"{closed} without the passage and {opened} with it, {doing(kind, site, 'one layer')}. "
            "Above: the share of the above-floor accuracy that is lost, each from its own floor. "
            "Below: the paired difference (bootstrap 95 % intervals, "
            f"n = {spread_of(own['n_pairs'], 'item')} both ways). Triangles: of the items right "
            "both ways the layer loses more without the passage (up), or with it (down). Exact "
            "tests allow for lucky and flipped answers: p < 0.05 after Holm's correction over the "
            f"layers of a panel. Of {len(sure)} such layers {n_holding} hold over all "
            f"{n_tests(layers)} tests of the run."
        )
        alt = "Line charts of the accuracy lost by layer, with and without the passage."
        name = f"books_{kind}_{site}_{len(figures)}"
        figures.append(FigureSpec(name, partial(book_losses, own, kind, site), caption, alt))
    return figures
