"""The typed result of a replication: verdicts on published claims."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd

from layerwise.presentation.columns import in_short
from layerwise.presentation.section import draw_table
from layerwise.storage.base import Result, heading_line
from layerwise.storage.provenance import Facts

from .columns import SHORT


@dataclass(frozen=True, repr=False, eq=False)
class ReplicationResult(Result):
    """Verdicts on published claims about layers.

    Attributes:
        verdicts: ``verdicts.parquet``: a row for each part of each claim.
        verdict_numbers: ``verdict_numbers.parquet``: the estimates that they stand on.
        trained_records: ``trained_records.parquet``: answers of the model that was trained from
            this one; empty if none was asked.
        facts: what is needed to repeat the run.
    """

    tables: ClassVar[tuple[str, ...]] = ("verdicts", "verdict_numbers", "trained_records")
    title: ClassVar[str] = "Published claims: do they hold for this model?"
    if_empty: ClassVar[str] = "No claim was asked."

    verdicts: pd.DataFrame
    verdict_numbers: pd.DataFrame
    trained_records: pd.DataFrame
    facts: Facts

    def _figure(self) -> Any:
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
