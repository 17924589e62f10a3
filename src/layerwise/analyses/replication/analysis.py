"""Verdicts on published claims: sentences, part of a page, and ``ANALYSIS``."""

from __future__ import annotations

from functools import partial
from typing import Any

import pandas as pd

from layerwise.analyses.contract import Analysis
from layerwise.presentation.claim import ESTABLISHED, OPEN, Claim, Estimate, source, weight
from layerwise.presentation.columns import run_table_as_text
from layerwise.presentation.rows import records
from layerwise.presentation.section import FigureSpec, Section, Table
from layerwise.presentation.wording import count_noun, join_words
from layerwise.storage.run_tables import RunTables

from .claim import Verdict
from .claims import BY_NAME
from .columns import COLUMNS, claim_name, effect_words, part_words
from .result import ReplicationResult

KIND = "published claim"
_WORDS = (
    "Do claims that were published about layers hold for this model? Each has a test in both "
    "directions, written before any result was seen. All p-values are corrected together."
)


def findings(run: RunTables) -> list[Claim]:
    """A sentence for each verdict, and one for what is open."""
    verdicts = run.table("verdicts")
    if verdicts is None or verdicts.empty:
        return []
    decided = verdicts.loc[verdicts["verdict"].isin([Verdict.HOLDS, Verdict.OPPOSITE])]
    undecided = verdicts.loc[verdicts["verdict"] == Verdict.OPEN]
    claims = [_verdict_claim(row) for row in records(decided)]
    if len(undecided):
        names = [claim_name(row) for row in records(undecided)]
        every = count_noun(len(verdicts), "part")
        claims.append(
            Claim(
                kind=KIND, evidence=OPEN, importance=weight(0.5, 0.0),
                short=f"{len(names)} of {every} of published claims stay open.",
                details=(f"They are {join_words(names)}.",),
                source=source("verdicts", {"verdict": str(Verdict.OPEN)}),
            )
        )  # fmt: skip
    return claims


def _verdict_claim(row: dict[str, Any]) -> Claim:
    holds = row["verdict"] == Verdict.HOLDS
    of = f" ({part_words(row)})" if row["part"] else ""
    value, low, high = (float(row[name]) for name in ("estimate", "low", "high"))
    known = BY_NAME.get(str(row["claim"]))
    told = "holds" if holds else "does not hold, but its opposite does"
    return Claim(
        kind=KIND,
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


def _texts(verdicts: pd.DataFrame) -> Table:
    """What each claim says, what the paper measured, and what decides."""
    names = list(dict.fromkeys(verdicts["claim"]))
    rows = [
        [name, claim.sentence, f"{claim.source.authors}, {claim.where}", claim.measured,
         claim.holds, claim.opposite, claim.differs]
        for name in names
        if (claim := BY_NAME.get(name)) is not None
    ]  # fmt: skip
    heads = ("claim", "says", "source", "measured there", "holds if", "the opposite holds if",
             "how this differs")  # fmt: skip
    return Table("The claims and their tests", heads, rows, collapsed=True)


def sections(run: RunTables) -> list[Section]:
    """The table of verdicts, a figure for each claim, and the texts."""
    from .figures import verdict_numbers, verdict_table

    verdicts, numbers = run.table("verdicts"), run.table("verdict_numbers")
    if verdicts is None or numbers is None or verdicts.empty:
        return []
    figures = [
        FigureSpec(
            "verdicts",
            partial(verdict_table, verdicts, run.facts.model.name),
            "Published claims about layers, tested on this model. Numbers with pointwise 95 % "
            "intervals; verdicts by Holm's correction over all claims (5 %).",
            "A table of claims with a mark and a word for each verdict, and a number.",
        )
    ]
    # Names of files are made of those of known claims alone, whatever a table says.
    for name, known in BY_NAME.items():
        if name not in set(numbers["claim"]):
            continue
        own = numbers.loc[numbers["claim"] == name]
        of = verdicts.loc[verdicts["claim"] == name]
        one = records(of)[0] if len(of) == 1 else None
        figures.append(
            FigureSpec(
                f"verdict_{name}", partial(verdict_numbers, own, one),
                f"The numbers behind {name}, with 95 % intervals over items. It says: "
                f"{known.sentence}",
                f"Points with intervals: the estimates that the verdict on {name} stands on.",
            )
        )  # fmt: skip
    tables = (
        *run_table_as_text(run, "verdicts", "Verdicts ({n})", COLUMNS, collapsed=False),
        _texts(verdicts),
    )
    return [
        Section("published-claims", "Published claims", 3, _WORDS, tuple(figures), tables,
                kinds=(KIND,))
    ]  # fmt: skip


ANALYSIS = Analysis(
    "replication", ReplicationResult, sections, findings,
    done={"verdicts": "Published claims about layers were tested, in both directions."},
)  # fmt: skip
