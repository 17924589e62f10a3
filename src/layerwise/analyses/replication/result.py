"""The typed result of a replication: verdicts on published claims."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd

from layerwise.analyses.ablation.result import AblationResult
from layerwise.analyses.similarity.result import SimilarityResult
from layerwise.presentation.columns import in_short
from layerwise.presentation.section import draw_table
from layerwise.storage.base import Result, heading_line
from layerwise.storage.provenance import Facts, join_facts

from .claim import PublishedClaim
from .columns import SHORT
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

        return draw_table(self, verdict_table, self.verdicts, self.facts.model.name)

    def summary_rows(self) -> pd.DataFrame:
        """One line for each part of each claim."""
        return in_short(self, SHORT, self.verdicts)

    def notes(self) -> list[str]:
        """Reasons why claims were not tested."""
        untested = self.verdicts.loc[self.verdicts["p"].isna()]
        return [f"{row['claim']}: {row['note']}" for row in untested.to_dict("records")]

    def _heading_line(self) -> str:
        n_items = sum(task.n_items for task in self.facts.tasks)
        tasks = [task.name for task in self.facts.tasks]
        return heading_line(self.facts, n_items, list(self.facts.protocols), tasks)


def judge_results(claims: Sequence[PublishedClaim], results: Sequence[Result]) -> ReplicationResult:
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
    evidence = Evidence.from_records(ablation.records, facts.chance, facts.model.n_layers, tables)
    tasks: Any = facts.settings["claims"]  # names of those of each claim
    return ReplicationResult(**judge(claims, evidence, tasks), facts=facts)
