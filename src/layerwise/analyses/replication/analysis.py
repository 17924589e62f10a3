"""Verdicts on published claims: sentences, part of a page, and its declaration ``ANALYSIS``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd

from layerwise.analyses.contract import Analysis, PlannableAnalysis, PlannedJobs, PlanOptions
from layerwise.presentation.claim import (
    ESTABLISHED,
    OPEN,
    PUBLISHED,
    VERDICT,
    Claim,
    Estimate,
    source,
    weight,
)
from layerwise.presentation.columns import run_table_as_text
from layerwise.presentation.rows import records
from layerwise.presentation.section import FigureSpec, Line, Section, Table
from layerwise.presentation.wording import count_noun, join_words, p_value
from layerwise.storage.run_tables import RunTables
from layerwise.tasks import Task

from .claims import BY_NAME
from .columns import COLUMNS, claim_name, effect_words, part_words, seen_words
from .result import ReplicationResult
from .verdicts.claim import Verdict

if TYPE_CHECKING:
    from layerwise.runs.setup import Setup

_WORDS = (
    "Each claim has a test in both directions, written before any result was seen. All p-values "
    "are corrected together. A line opens to what the paper measured, and to the numbers."
)
_LOOKS: dict[str, str] = {
    Verdict.HOLDS: "holds", Verdict.OPPOSITE: "opposite", Verdict.OPEN: "open",
    Verdict.NO_SIGNAL: "silent", Verdict.NOT_ASKED: "silent",
}  # fmt: skip


def findings(run: RunTables) -> list[Claim]:
    """The number of claims that hold, then a sentence for each verdict."""
    verdicts = run.table("verdicts")
    if verdicts is None or verdicts.empty:
        return []
    decided = verdicts.loc[verdicts["verdict"].isin([Verdict.HOLDS, Verdict.OPPOSITE])]
    return [_summary(verdicts, run.facts.model.name), *map(_verdict_claim, records(decided))]


def _summary(verdicts: pd.DataFrame, model: str) -> Claim:
    """Numbers of parts of claims that hold, and that stay open."""
    told = [
        (Verdict.HOLDS, "{} hold", "{} holds"),
        (Verdict.OPPOSITE, "the opposite of {} holds", "the opposite of {} holds"),
        (Verdict.OPEN, "{} stay open", "{} stays open"),
    ]
    every_verdict = [str(verdict) for verdict in verdicts["verdict"]]
    counts = [(every_verdict.count(word), *words) for word, *words in told]
    untested = len(verdicts) - sum(n for n, *_ in counts)
    counts.append((untested, "{} could not be tested", "{} could not be tested"))
    shown = [(one if n == 1 else many).format(n) for n, many, one in counts if n]
    every = count_noun(len(verdicts), "part")
    open_names = [claim_name(row) for row in records(verdicts) if row["verdict"] == Verdict.OPEN]
    details = (f"Open are {join_words(open_names)}.",) if open_names else ()
    return Claim(
        kind=PUBLISHED, evidence=OPEN, importance=weight(1.0, 1.0),
        short=f"Of {every} of published claims on {model}, {join_words(shown)}.",
        details=details, source=source("verdicts", {}),
    )  # fmt: skip


def _verdict_claim(row: dict[str, Any]) -> Claim:
    holds = row["verdict"] == Verdict.HOLDS
    of = f" ({part_words(row)})" if row["part"] else ""
    value, low, high = (float(row[name]) for name in ("estimate", "low", "high"))
    known = BY_NAME.get(str(row["claim"]))
    told = "holds" if holds else "does not hold, but its opposite does"
    return Claim(
        kind=VERDICT,
        evidence=ESTABLISHED,
        importance=weight(0.7, 1.0 if holds else 0.9),
        short=f"The claim {row['claim']}{of} of {row['source']} {told}.",
        details=(f"It says: {row['sentence']}", f"Here: {effect_words(row)}, {row['effect']}.")
        + ((str(row["note"]),) if row["note"] else ()),
        p=float(row["p_run"]),
        test=f"both directions, Holm over {row['run_tests']} parts of claims",
        estimate=Estimate(value, low, high, str(row["unit"]), digits=2),
        caveat="" if known is None else known.differs,
        source=source("verdicts", {"claim": row["claim"], "part": row["part"]}),
    )


def _line(row: dict[str, Any], numbers: pd.DataFrame, drawing: FigureSpec | None) -> Line:
    """A verdict, and what opens under it."""
    number = effect_words(row) if pd.notna(row["estimate"]) else ""
    cells = (claim_name(row), str(row["sentence"]), str(row["verdict"]), number)
    words: list[tuple[str, str]] = []
    if number:
        words.append(("here", f"{number}, {row['effect']}"))
        words.append(("p", f"{p_value(row['p_run'])} after correction over all claims"))
    if row["verdict"] == Verdict.OPEN and pd.notna(row["smallest"]):
        words.append(("would be seen from", f"{seen_words(row)} {row['unit']}"))
    if row["note"]:
        words.append(("note", str(row["note"])))
    words.append(("source", str(row["source"])))
    known = BY_NAME.get(str(row["claim"]))
    if known is not None:
        words += [
            ("in the paper", known.where), ("measured there", known.measured),
            ("holds if", known.holds), ("the opposite holds if", known.opposite),
            ("how this differs", known.differs),
        ]  # fmt: skip
    heads = ("what", "estimate [95 %]", "n")
    texts = [[str(one["label"]), effect_words(one), str(one["n_items"])]
             for one in records(numbers)]  # fmt: skip
    tables = (Table("Numbers", heads, texts),) if texts else ()
    return Line(cells, _LOOKS.get(row["verdict"], "open"), tuple(words), drawing, tables)


def sections(run: RunTables) -> list[Section]:
    """A line for each verdict, a figure for each claim, and the picture of all."""
    from .figures import verdict_numbers, verdict_table

    verdicts, numbers = run.table("verdicts"), run.table("verdict_numbers")
    if verdicts is None or numbers is None or verdicts.empty:
        return []
    figures = (
        FigureSpec(
            "verdicts",
            partial(verdict_table, verdicts, run.facts.model.name),
            "Published claims about layers, tested on this model. Numbers with pointwise 95 % "
            "intervals; verdicts by Holm's correction over all claims (5 %).",
            "A table of claims with a mark and a word for each verdict, and a number.",
        ),
    )
    lines, drawn = [], set()
    for row in records(verdicts):
        name, drawing = str(row["claim"]), None
        own = numbers.loc[numbers["claim"] == name]
        # Names of files are made of those of known claims alone, whatever a table says.
        if name in BY_NAME and len(own) and name not in drawn:
            drawn.add(name)
            one = row if len(verdicts.loc[verdicts["claim"] == name]) == 1 else None
            drawing = FigureSpec(
                f"verdict_{name}", partial(verdict_numbers, own, one),
                f"The numbers behind {name}, with 95 % intervals over items. It says: "
                f"{BY_NAME[name].sentence}",
                f"Points with intervals: the estimates that the verdict on {name} stands on.",
            )  # fmt: skip
        lines.append(_line(row, own.loc[own["part"] == row["part"]], drawing))
    tables = run_table_as_text(run, "verdicts", "Verdicts ({n})", COLUMNS, collapsed=True)
    return [
        Section("published-claims", "Published claims", 3, _WORDS, figures, (*tables,),
                kinds=(VERDICT,), lines=tuple(lines))
    ]  # fmt: skip


def _enough(tasks: Sequence[Task], n_protocols: int, n_layers: int) -> int:
    from layerwise.analyses.ablation.api import enough_items

    return enough_items(tasks, n_protocols, n_layers)


def _own_tasks(model: Any, options: PlanOptions) -> Sequence[str]:
    from .api import own_tasks

    return own_tasks(model, options)


def _jobs(setup: Setup, options: PlanOptions) -> PlannedJobs:
    from .api import planned_jobs

    return planned_jobs(setup, options)


ANALYSIS = Analysis(
    "replication", ReplicationResult, sections, findings,
    plans=(PlannableAnalysis(
        "replicate", _jobs, options=("claims", "scale", "data"), enough=_enough,
        own_tasks=_own_tasks),),
    done={"verdicts": "Published claims about layers were tested, in both directions."},
)  # fmt: skip
