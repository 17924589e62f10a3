"""The typed result of a transplant, and the compact table that it shows in a notebook."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd

from layerwise.presentation.columns import in_short
from layerwise.presentation.section import drawn
from layerwise.storage.base import Result, computed_once
from layerwise.storage.provenance import Facts

from .columns import EFFECTS
from .gaps import gaps_table
from .greedy import greedy_table
from .tables import effects_table, ranks_table


@dataclass(frozen=True, repr=False, eq=False)
class TransplantResult(Result):
    """Outcomes of two models, and of each with layers of the other.

    Attributes:
        transplant: ``transplant.parquet``.
        transplant_distances: ``transplant_distances.parquet``.
        facts: what is needed to repeat the run; the model is the base.
    """

    tables: ClassVar[tuple[str, ...]] = ("transplant", "transplant_distances")
    title: ClassVar[str] = "Transplant: which layers bring what one model can do to another"
    if_empty: ClassVar[str] = (
        "Nothing was exchanged: under no task and protocol is one of the two models established "
        "to be better than the other."
    )

    transplant: pd.DataFrame
    transplant_distances: pd.DataFrame
    facts: Facts

    @computed_once
    def gaps(self) -> pd.DataFrame:
        """``transplant_gaps.parquet``: which of the two models is better, and by how much."""
        return gaps_table(self.transplant, self.facts.chance, self.facts.seed)

    @computed_once
    def effects(self) -> pd.DataFrame:
        """``transplant_effects.parquet``: what every change moves of the gap."""
        return effects_table(self.transplant, self.gaps(), self.facts.chance, self.facts.seed)

    @computed_once
    def ranks(self) -> pd.DataFrame:
        """``transplant_ranks.parquet``: do layers whose weights differ most move most?"""
        return ranks_table(self.transplant, self.transplant_distances, self.gaps(), self.facts.seed)

    @computed_once
    def greedy(self) -> pd.DataFrame:
        """``transplant_greedy.parquet``: what layers chosen one by one move on other items."""
        return greedy_table(self.transplant, self.gaps(), self.facts.chance, self.facts.seed)

    def derived(self) -> dict[str, pd.DataFrame]:
        """``transplant_gaps``, ``transplant_effects``, ``transplant_ranks``, ``transplant_greedy``.

        The last only where layers were chosen one after the other.
        """
        greedy = {"transplant_greedy": self.greedy()} if len(self.greedy()) else {}
        return {
            "transplant_gaps": self.gaps(),
            "transplant_effects": self.effects(),
            "transplant_ranks": self.ranks(),
            **greedy,
        }

    def plot(self) -> Any:
        """The share of the gap that each layer brings, and that its return destroys.

        Of single heads what each brings is drawn, as layers by heads.
        """
        from .figures import moved_by_head, moved_by_layer

        effects = self.effects()
        by_head = bool(effects["head"].notna().any())
        return drawn(self, moved_by_head if by_head else moved_by_layer, effects)

    def summary_rows(self) -> pd.DataFrame:
        """What each change moves of the gap, where there is one."""
        return in_short(self, EFFECTS, self.effects())
