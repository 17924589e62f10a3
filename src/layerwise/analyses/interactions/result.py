"""The typed result of interactions, and the compact table that it shows in a notebook."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from layerwise.ground.layer_names import layer_name
from layerwise.presentation import no_signal
from layerwise.presentation.rows import records
from layerwise.presentation.section import drawn
from layerwise.storage.base import Result, computed_once, intervals, number
from layerwise.storage.provenance import Facts

from .costs import NATS, measure_of, signal_of
from .tables import PERMUTATIONS, pairs_table, shapley_table


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
    title: ClassVar[str] = "Interactions: what costs more together than alone, or less"
    if_empty: ClassVar[str] = (
        "No pair was removed: no task has signal (the intact model is not better than blind), or "
        "permutations alone were asked for."
    )

    interactions: pd.DataFrame
    interaction_orders: pd.DataFrame
    facts: Facts

    @computed_once
    def signal(self) -> pd.DataFrame:
        """Is the intact model better than blind? As ``signal.parquet``."""
        return signal_of(self.interactions, self.facts.chance)

    @computed_once
    def pairs(self) -> pd.DataFrame:
        """``interaction_pairs.parquet``: what each pair costs beyond the sum of its two."""
        return pairs_table(self.interactions, self.facts.chance, self.facts.seed)

    @computed_once
    def shapley(self) -> pd.DataFrame:
        """``shapley.parquet``: how the cost of removing all is shared out."""
        chance, seed = self.facts.chance, self.facts.seed
        return shapley_table(self.interactions, self.interaction_orders, chance, seed)

    def derived(self) -> dict[str, pd.DataFrame]:
        """``interaction_pairs`` and ``shapley``."""
        return {"interaction_pairs": self.pairs(), "shapley": self.shapley()}

    def plot(self) -> Any:
        """Triangles of interactions, or Shapley values of layers where no pairs were removed.

        Both are in nats, or in accuracy where nothing has log-probabilities.
        """
        from .figures import interaction_triangles, shapley_values

        pairs, values = (table.loc[table["signal"]] for table in (self.pairs(), self.shapley()))
        values = values.loc[values["head"].isna()]
        if pairs.empty and len(values):
            return drawn(self, shapley_values, values, PERMUTATIONS, measure_of(values))
        return drawn(self, interaction_triangles, pairs, measure_of(pairs))

    def notes(self) -> list[str]:
        """How often the model is right where it has no signal."""
        return no_signal.sentences(self.signal(), self.facts)

    def summary_rows(self) -> pd.DataFrame:
        """The strongest interactions in nats, by task and protocol."""
        return interaction_rows(self.pairs(), self.facts.model.n_encoder_layers)


def interaction_rows(pairs: pd.DataFrame, n_encoder: int = 0, n_top: int = 5) -> pd.DataFrame:
    """The pairs with the strongest interactions of each task and protocol, in nats.

    Where there are none in nats, as under ``generate``, they are told in accuracy.
    """
    cell = ["task", "protocol"]
    has_nats = pairs.groupby(cell)["measure"].transform(lambda of: (of == NATS).any())
    known = pairs.loc[pairs["signal"] & ((pairs["measure"] == NATS) | ~has_nats.astype(bool))]
    size = known["interaction"].abs()
    known = known.loc[size.sort_values(ascending=False, kind="stable").index]
    top = known.groupby(cell, sort=True).head(n_top).sort_values(by=cell, kind="stable")
    name = partial(player_label, n_encoder=n_encoder)
    return pd.DataFrame(
        {
            "task": top["task"],
            "protocol": top["protocol"],
            "pair": [f"{name(row, 'first')}, {name(row, 'second')}" for row in records(top)],
            "alone": [
                f"{number(a)}, {number(b)}"
                for a, b in zip(top["cost_first"], top["cost_second"], strict=True)
            ],
            "together": top["cost_both"].map(number),
            "unit": np.where(top["measure"] == NATS, "nats", "accuracy"),
            "interaction [95 %]": intervals(top, "interaction", "low", "high"),
            "q": top["p_bh"].map("{:.2g}".format),
            "verdict": top["verdict"].fillna("-"),
        }
    )


def player_label(row: dict[str, Any], which: str, n_encoder: int = 0) -> str:
    """``"7"``, ``"encoder.3"`` or ``"7.2"``, the layer and head, of one of a row's pair."""
    layer, head = row[f"{which}_layer"], row[f"{which}_head"]
    named = layer_name(int(layer), n_encoder)
    return named if pd.isna(head) else f"{named}.{int(head)}"
