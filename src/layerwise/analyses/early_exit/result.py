"""The typed result of early exits, and the compact table that it shows in a notebook."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd

from layerwise.analyses.logit_lens.result import guessing_chance
from layerwise.presentation import no_signal
from layerwise.presentation.columns import (
    Column,
    estimate_column,
    in_short,
    p_column,
    plain,
    text_column,
    yes_no_column,
)
from layerwise.presentation.section import draw_table
from layerwise.presentation.wording import count_range
from layerwise.stats.share_tests.equivalence import SmallestEffects
from layerwise.storage.base import Result, cache_tables
from layerwise.storage.provenance import Facts

from .tables import earliest, exit_name, exits_table, gate, n_items_needed

EXITS = (
    *plain("task", "protocol"),
    Column("exit after layer", exit_name),
    text_column("items", "n_items"),
    estimate_column("accuracy lost (points)", "acc_diff", "acc_diff_", 100, 1),
    estimate_column("nats lost", "nats", "nats_", 1, 2),
    estimate_column("same token (%)", "same", "same_", 100),
    p_column("p (loss too large, all of the run)", "p_no_loss_run"),
    yes_no_column("safe", "safe"),
)


@dataclass(frozen=True, repr=False, eq=False)
class EarlyExitResult(Result):
    """Answers of the model if it stopped after each layer.

    Attributes:
        early_exit: ``early_exit.parquet``.
        facts: what is needed to repeat the run.
    """

    tables: ClassVar[tuple[str, ...]] = ("early_exit",)
    derived_by: ClassVar[dict[str, str]] = {"early_exit_layers": "exits"}
    title: ClassVar[str] = "Early exit: the first layer after which the model could stop"
    if_empty: ClassVar[str] = "No exit is safe."

    early_exit: pd.DataFrame
    facts: Facts

    @cache_tables
    def exits(self) -> pd.DataFrame:
        """``early_exit_layers``: accuracy, nats and tests of each exit."""
        interest = SmallestEffects.from_settings(self.facts.settings)
        return exits_table(self.early_exit, guessing_chance(self.facts), self.facts.seed, interest)

    def earliest(self) -> pd.DataFrame:
        """The first safe exit of each task and protocol, and in each stack; none where none is."""
        return earliest(self.exits())

    def _figure(self) -> Any:
        """Cost of stopping after each layer, by task and protocol."""
        from .figures import exit_strips

        return draw_table(self, exit_strips, self.exits())

    def notes(self) -> list[str]:
        """Notes where items are too few to call an exit safe, and where the model has no signal."""
        notes, lit = [], self.exits().loc[self.exits()["signal"]]
        if len(lit):  # no exit may be safe even if no answer changed
            loss = SmallestEffects.from_settings(self.facts.settings).loss
            needed = n_items_needed(int(lit["n_sequences"].iloc[0]), loss)
            few = lit.loc[lit["n_items"] < needed, "n_items"]
            if len(few):
                notes.append(
                    f"No exit of {count_range(few, 'item')} can be safe: expected {needed} "
                    f"items, or "
                    "a larger smallest_loss."
                )
        return [
            *notes,
            *no_signal.gate_sentences(gate(self.early_exit, guessing_chance(self.facts))),
        ]

    def summary_rows(self) -> pd.DataFrame:
        """The first safe exits."""
        return in_short(self, EXITS, self.earliest())
