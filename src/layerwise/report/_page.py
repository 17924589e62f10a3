"""Pages of runs turned into one HTML text with the template, figures inside.

What is on a page is settled in ``_sections``; the words of the page are in the template.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from layerwise.presentation.claim import Claim
from layerwise.presentation.figure_spec import FigureSpec
from layerwise.presentation.naming import naming_layers_of
from layerwise.presentation.page import Picture, drawn, filled
from layerwise.presentation.section import Section
from layerwise.presentation.table import Table
from layerwise.report._evidence import evidence_of
from layerwise.report._facts import facts_tables
from layerwise.report._sections import sections
from layerwise.report._side_by_side import comparison, differing_tasks
from layerwise.storage.run_tables import RunTables


@dataclass(frozen=True)
class Page:
    """One run of the report: its name, its tables and its sentences."""

    name: str
    run: RunTables
    findings: Sequence[Claim]


def render(pages: Sequence[Page]) -> tuple[str, dict[str, Any]]:
    """The page's text, and its figures by name.

    Args:
        pages: one per run; names of figures get the run's number if there are several.
    """
    parts = [_parts(page.run) for page in pages]
    pictures, figures = _pictures(parts, [page.run for page in pages])
    runs = [page.run for page in pages]
    text = filled(
        "layerwise.report",
        "template.html.j2",
        pages=list(zip(pages, parts, map(facts_tables, runs), map(_findings, pages), strict=True)),
        pictures=pictures,
        comparison=comparison(runs, [page.name for page in pages]) if len(pages) > 1 else None,
        differing=differing_tasks(runs),
    )
    return text, figures


def _findings(page: Page) -> list[tuple[Claim, Table]]:
    """A page's sentences, each with the rows that it stands on."""
    return [(finding, evidence_of(page.run, finding)) for finding in page.findings]


def _parts(run: RunTables) -> list[Section]:
    with naming_layers_of(run.facts.model):
        return sections(run)


def _pictures(
    parts: Sequence[Sequence[Section]], runs: Sequence[RunTables]
) -> tuple[dict[FigureSpec, Picture], dict[str, Any]]:
    listed = [
        (f"run{i}_{drawing.name}" if len(parts) > 1 else drawing.name, drawing, run.facts.model)
        for i, (part, run) in enumerate(zip(parts, runs, strict=True), start=1)
        for section in part
        for drawing in section.drawings
    ]
    return drawn(listed)
