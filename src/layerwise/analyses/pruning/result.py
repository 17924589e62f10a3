"""The typed result of pruning, and the compact table that it shows in a notebook."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pandas as pd

from layerwise.presentation.columns import Column, in_short, number_column, plain, text_column
from layerwise.stats.families.over_items import pruning_summary
from layerwise.storage.base import Result, cache_tables
from layerwise.storage.provenance import Facts


@dataclass(frozen=True, repr=False, eq=False)
class PruningResult(Result):
    """A model written without some layers, with predicted and measured outcomes.

    Attributes:
        pruning: ``pruning.parquet``: every item under the three models.
        facts: what is needed to repeat the run; the model is the original.
    """

    tables: ClassVar[tuple[str, ...]] = ("pruning",)
    title: ClassVar[str] = "Pruning: predicted by skipping, and measured on the written model"
    if_empty: ClassVar[str] = "There is no item."

    pruning: pd.DataFrame
    facts: Facts

    @cache_tables
    def summary(self) -> pd.DataFrame:
        """Accuracies and agreement per task and protocol.

        Returns:
            ``task``, ``capability``, ``protocol``, ``n_items``, ``intact_accuracy``,
            ``predicted_accuracy``, ``measured_accuracy``, ``largest_difference`` (of the gold
            log-probability, nats; null under ``generate``), ``same_texts`` (share of the items;
            null under the other protocols).
        """
        return pruning_summary(self.pruning)

    def summary_rows(self) -> pd.DataFrame:
        """Accuracies and agreement per task and protocol."""
        return in_short(self, WRITTEN, self.summary())


WRITTEN = (
    *plain("task", "protocol"),
    text_column("n", "n_items"),
    number_column("accuracy (%): intact", "intact_accuracy", 100),
    number_column("predicted", "predicted_accuracy", 100),
    number_column("measured", "measured_accuracy", 100),
    Column(
        "largest difference (nats)",
        lambda row: "–" if pd.isna(gap := row["largest_difference"]) else f"{gap:.1g}",
    ),
    number_column("same texts (%)", "same_texts", 100),
)
