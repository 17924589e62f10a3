"""The typed result of interactions, and the compact table that it shows in a notebook."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd

from layerwise.presentation import no_signal
from layerwise.presentation.columns import (
    Column,
    Row,
    estimate_column,
    in_short,
    number_column,
    p_column,
    plain,
    text_column,
)
from layerwise.presentation.section import draw_table
from layerwise.storage.base import Result, cache_tables
from layerwise.storage.provenance import Facts

from .tables import (
    NATS,
    PERMUTATIONS,
    pairs_table,
    player_name,
    shapley_table,
    shown_measure,
    signal_from_interactions,
)


@dataclass(frozen=True, repr=False, eq=False)
class InteractionsResult(Result):
    """Outcomes without each layer or head, without pairs, and without sampled sets.

    Attributes:
        interactions: ``interactions.parquet``.
        interaction_orders: ``interaction_orders.parquet``: the permutations that sampled sets are
            beginnings of; empty if none were asked for.
        facts: what is needed to repeat the run.
    """

    tables: ClassVar[tuple[str, ...]] = ("interactions", "interaction_orders")
    derived_by: ClassVar[dict[str, str]] = {"interaction_pairs": "pairs", "shapley": "shapley"}
    title: ClassVar[str] = "Interactions: what costs more together than alone, or less"
    if_empty: ClassVar[str] = (
        "No pair was removed: no task has signal (the intact model is not better than blind), or "
        "permutations alone were asked for."
    )

    interactions: pd.DataFrame
    interaction_orders: pd.DataFrame
    facts: Facts

    @cache_tables
    def signal(self) -> pd.DataFrame:
        """``signal``: a test that the intact model answers better than blind."""
        return signal_from_interactions(self.interactions, self.facts.chance)

    @cache_tables
    def pairs(self) -> pd.DataFrame:
        """``interaction_pairs``: what each pair costs beyond the sum of its two."""
        return pairs_table(self.interactions, self.facts.chance, self.facts.seed)

    @cache_tables
    def shapley(self) -> pd.DataFrame:
        """``shapley``: how the cost of removing all is shared out."""
        chance, seed = self.facts.chance, self.facts.seed
        return shapley_table(self.interactions, self.interaction_orders, chance, seed)

    def _figure(self) -> Any:
        """Triangles of interactions, or Shapley values of layers where no pairs were removed.

        Both are in nats, or in accuracy where nothing has log-probabilities.
        """
        from .figures import interaction_triangles, shapley_values

        pairs, values = (table.loc[table["signal"]] for table in (self.pairs(), self.shapley()))
        values = values.loc[values["head"].isna()]
        if pairs.empty and len(values):
            return draw_table(self, shapley_values, values, PERMUTATIONS, shown_measure(values))
        return draw_table(self, interaction_triangles, pairs, shown_measure(pairs))

    def notes(self) -> list[str]:
        """Accuracy of the model where it has no signal."""
        return no_signal.sentences(self.signal(), self.facts)

    def summary_rows(self) -> pd.DataFrame:
        """The strongest interactions by task and protocol, in accuracy where there are no nats."""
        pairs, cell = self.pairs(), ["task", "protocol"]
        has_nats = pairs.groupby(cell)["measure"].transform(lambda of: (of == NATS).any())
        known = pairs.loc[pairs["signal"] & ((pairs["measure"] == NATS) | ~has_nats.astype(bool))]
        ranked = known.sort_values("interaction", key=abs, ascending=False, kind="stable")
        top = ranked.groupby(cell, sort=True).head(5).sort_values(by=cell, kind="stable")
        return in_short(self, _SHORT, top)


def part_name(row: Row, which: str) -> str:
    """The layer and head of one of a row's pair."""
    return player_name(row[f"{which}_layer"], row[f"{which}_head"])


_SHORT = (
    *plain("task", "protocol"),
    Column("pair", lambda row: f"{part_name(row, 'first')}, {part_name(row, 'second')}"),
    number_column("first alone", "cost_first", 1, 2),
    number_column("second alone", "cost_second", 1, 2),
    number_column("together", "cost_both", 1, 2),
    text_column("unit", "measure"),
    estimate_column("interaction", "interaction", "", 1, 2),
    p_column("q", "p_bh"),
    text_column("verdict", "verdict"),
)
