"""The typed result of early exits, and the compact table that it shows in a notebook."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd

from layerwise.analyses.logit_lens.result import guessing
from layerwise.presentation import no_signal
from layerwise.presentation.columns import (
    Column,
    decided,
    estimated,
    in_short,
    named,
    p_column,
    plain,
)
from layerwise.presentation.section import drawn
from layerwise.presentation.wording import spread_of
from layerwise.stats.share_tests.equivalence import Interest
from layerwise.storage.base import Result, computed_once
from layerwise.storage.provenance import Facts

from .tables import earliest, exit_name, exits_table, gate, items_needed

EXITS = (
    *plain("task", "protocol"),
    Column("exit after layer", exit_name),
    named("items", "n_items"),
    estimated("accuracy lost (points)", "acc_diff", "acc_diff_", 100, 1),
    estimated("nats lost", "nats", "nats_", 1, 2),
    estimated("same token (%)", "same", "same_", 100),
    p_column("p (loss too large, all of the run)", "p_no_loss_run"),
    decided("safe", "safe"),
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

    @computed_once
    def exits(self) -> pd.DataFrame:
        """``early_exit_layers``: accuracy, nats and tests of each exit."""
        interest = Interest.of(self.facts.settings)
        return exits_table(self.early_exit, guessing(self.facts), self.facts.seed, interest)

    def earliest(self) -> pd.DataFrame:
        """The first safe exit of each task and protocol, and in each stack; none where none is."""
        return earliest(self.exits())

    def plot(self) -> Any:
        """Cost of stopping after each layer, by task and protocol."""
        from .figures import exit_strips

        return drawn(self, exit_strips, self.exits())

    def notes(self) -> list[str]:
        """Notes where items are too few to call an exit safe, and where the model has no signal."""
        notes, lit = [], self.exits().loc[self.exits()["signal"]]
        if len(lit):  # no exit may be safe even if no answer changed
            loss = Interest.of(self.facts.settings).loss
            needed = items_needed(int(lit["n_sequences"].iloc[0]), loss)
            few = lit.loc[lit["n_items"] < needed, "n_items"]
            if len(few):
                notes.append(
                    f"No exit of {spread_of(few, 'item')} can be safe: expected {needed} items, or "
                    "a larger smallest_loss."
                )
        return [*notes, *no_signal.gate_sentences(gate(self.early_exit, guessing(self.facts)))]

    def summary_rows(self) -> pd.DataFrame:
        """The first safe exits."""
        return in_short(self, EXITS, self.earliest())
