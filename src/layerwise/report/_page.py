"""Pages of runs turned into one HTML text with the template, figures inside.

What is on a page is settled in ``_sections``; the words of the page are in the template.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import resources
from typing import Any

from markupsafe import Markup

from layerwise.presentation.claim import Claim
from layerwise.presentation.evidence import evidence
from layerwise.presentation.naming import naming_layers_of
from layerwise.presentation.page import Picture, drawn, filled
from layerwise.presentation.power import HowSure, how_sure
from layerwise.presentation.section import FigureSpec, Section, Table
from layerwise.report._answer import Answer, answer_of
from layerwise.report._facts import facts_tables
from layerwise.report._items import items_json
from layerwise.report._sections import sections
from layerwise.report._side_by_side import comparison, differing_tasks
from layerwise.storage.run_tables import RunTables


@dataclass(frozen=True)
class Page:
    """One run of the report: its name, its tables, its claims and its first screen."""

    name: str
    run: RunTables
    findings: Sequence[Claim]

    @cached_property
    def answer(self) -> Answer:
        """What stands on the first screen."""
        return answer_of(self.run, self.findings)

    @cached_property
    def parts(self) -> list[Section]:
        """The sections behind the first screen."""
        with naming_layers_of(self.run.facts.model):
            return sections(self.run)

    @property
    def facts(self) -> list[Table]:
        """What is needed to repeat the run."""
        return facts_tables(self.run)

    @property
    def first(self) -> list[tuple[Claim, Table]]:
        """The first screen's claims, each with the rows that it stands on."""
        return [(claim, evidence_of(self.run, claim)) for claim in self.answer.claims]

    @property
    def claims(self) -> list[tuple[Claim, Table]]:
        """The other claims, with their rows."""
        others = [claim for claim in self.findings if claim not in self.answer.claims]
        return [(claim, evidence_of(self.run, claim)) for claim in others]

    @cached_property
    def sure(self) -> HowSure | None:
        """How small a loss the run would have shown; None if no layer was tested."""
        return how_sure(self.run)

    @property
    def items(self) -> Markup:
        """The items behind the strip, for the page's script; empty if there are none."""
        return Markup(items_json(self.run))

    def short(self, part: Section) -> str:
        """The claim that a section opens with; empty if there is none."""
        return next((c.short for c in self.findings if c.kind in part.kinds), "")


def evidence_of(run: RunTables, claim: Claim) -> Table:
    """The rows that a claim about a run stands on."""
    name = claim.source["table"]
    table = run.table(name)
    assert table is not None, f"a claim without its table: {claim.full}"
    shown = evidence(claim, table, run.file(name))
    if not run.facts.model.n_encoder_layers:
        return shown
    return replace(shown, note=f"{shown.note} Layers are counted from the encoder's first.")


def render(pages: Sequence[Page]) -> tuple[str, dict[str, Any]]:
    """The page's text, and its figures by name."""
    runs = [page.run for page in pages]
    pictures, figures = _pictures([page.parts for page in pages], runs)
    text = filled(
        "layerwise.report",
        "template.html.j2",
        pages=pages,
        pictures=pictures,
        comparison=comparison(runs, [page.name for page in pages]) if len(pages) > 1 else None,
        differing=differing_tasks(runs),
        script=resources.files("layerwise.report").joinpath("page.js").read_text("utf-8"),
    )
    return text, figures


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
