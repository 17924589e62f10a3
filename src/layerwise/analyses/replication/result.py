"""The typed result of a replication: verdicts on published claims."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd

from layerwise.analyses.ablation.result import AblationResult
from layerwise.analyses.similarity.result import SimilarityResult
from layerwise.presentation.columns import Column, in_short, named, p_column, plain
from layerwise.presentation.section import drawn
from layerwise.presentation.wording import interval, number, way_of_scoring
from layerwise.storage.base import Result, heading
from layerwise.storage.provenance import Facts, join_facts
from layerwise.tasks import PROTOCOLS

from .claim import PublishedClaim, Verdict
from .evidence import Evidence
from .judge import judge


@dataclass(frozen=True, repr=False, eq=False)
class ReplicationResult(Result):
    """Verdicts on published claims about layers.

    Attributes:
        verdicts: ``verdicts.parquet``: a row for each part of each claim.
        verdict_numbers: ``verdict_numbers.parquet``: the estimates that they stand on.
        facts: what is needed to repeat the run.
    """

    tables: ClassVar[tuple[str, ...]] = ("verdicts", "verdict_numbers")
    title: ClassVar[str] = "Published claims: do they hold for this model?"
    if_empty: ClassVar[str] = "No claim was asked."

    verdicts: pd.DataFrame
    verdict_numbers: pd.DataFrame
    facts: Facts

    def plot(self) -> Any:
        """The verdicts, one line each."""
        from .figures import verdict_table

        return drawn(self, verdict_table, self.verdicts, self.facts.model.name)

    def summary_rows(self) -> pd.DataFrame:
        """One line for each part of each claim."""
        return in_short(self, SHORT, self.verdicts)

    def notes(self) -> list[str]:
        """Reasons why claims were not tested."""
        untested = self.verdicts.loc[self.verdicts["p"].isna()]
        return [f"{row['claim']}: {row['note']}" for row in untested.to_dict("records")]

    def _heading(self) -> str:
        n_items = sum(task.n_items for task in self.facts.tasks)
        tasks = [task.name for task in self.facts.tasks]
        return heading(self.facts, n_items, list(self.facts.protocols), tasks)


# Units of which whole numbers are shown.
_WHOLE = ("%", "accuracy", "of ")


def claim_name(row: dict[str, Any]) -> str:
    """``"song-4, knowledge"``: a claim, and its part where it has several."""
    return f"{row['claim']}, {part_words(row)}" if row["part"] else str(row["claim"])


def part_words(row: dict[str, Any]) -> str:
    """The part that a verdict is of; a way of scoring in everyday words."""
    part = str(row["part"])
    return way_of_scoring(part) if part in PROTOCOLS else part


def effect_words(row: dict[str, Any]) -> str:
    """``"13 [2, 24] % of the score"``: a verdict's number with its interval and unit."""
    if pd.isna(row["estimate"]):
        return "–"
    digits = 0 if str(row["unit"]).startswith(_WHOLE) else 2
    if pd.isna(row["low"]):
        return f"{number(row['estimate'], digits)} {row['unit']}"
    return f"{interval(row['estimate'], row['low'], row['high'], digits)} {row['unit']}"


def seen_words(row: dict[str, Any]) -> str:
    """``"18"``: of an open claim, the effect that would have been shown in 8 of 10 runs."""
    if row["verdict"] != Verdict.OPEN or pd.isna(row["smallest"]):
        return "–"
    return number(row["smallest"], 0 if str(row["unit"]).startswith(_WHOLE) else 2)


SHORT = (
    Column("claim", claim_name),
    named("verdict", "verdict"),
    Column("number", effect_words),
    named("of", "effect"),
    p_column("p (all claims)", "p_run"),
)
COLUMNS = (
    Column("claim", claim_name),
    *plain("source", "sentence", "verdict"),
    Column("number [95 %]", effect_words),
    named("what it is", "effect"),
    named("n", "n_items"),
    p_column("p", "p"),
    p_column("p (all claims)", "p_run"),
    Column("would be seen from", seen_words),
    named("note", "note"),
)


def replication_of(
    claims: Sequence[PublishedClaim], results: Sequence[Result]
) -> ReplicationResult:
    """Verdicts on claims, from the results of one model."""
    (ablation,) = (result for result in results if isinstance(result, AblationResult))
    tables: dict[str, pd.DataFrame] = {}
    books = ablation.books()
    tables |= {"books": books} if len(books) else {}
    for result in results:
        if isinstance(result, SimilarityResult):
            measured = {"similarity": result.similarity, "prediction": result.predicts(ablation)}
            tables |= measured
    facts = join_facts([result.facts for result in results])
    evidence = Evidence.of(ablation.records, facts.chance, facts.model.n_layers, tables)
    return ReplicationResult(**judge(claims, evidence), facts=facts)
