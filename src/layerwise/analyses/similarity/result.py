"""The typed result of the similarity of layers, and its compact table for notebooks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd

from layerwise.analyses.ablation.result import AblationResult
from layerwise.ground.layer_names import layer_name
from layerwise.presentation.drawing import drawn
from layerwise.storage.base import Result, computed_once
from layerwise.storage.notebook import intervals
from layerwise.storage.provenance import Facts, join_facts

from .prediction_tables import prediction_table
from .tables import angular_table, influence_table


@dataclass(frozen=True, repr=False, eq=False)
class SimilarityResult(Result):
    """How alike the residual streams before and after layers are.

    Attributes:
        similarity: ``similarity.parquet``: block influence and angular distances of every item.
        cka: ``cka.parquet``: linear CKA of every pair of depths, over items.
        facts: what is needed to repeat the run.
    """

    tables: ClassVar[tuple[str, ...]] = ("similarity", "cka")
    title: ClassVar[str] = "Similarity of layers: those that turn the stream least"
    if_empty: ClassVar[str] = "No prompt was read."

    similarity: pd.DataFrame
    cka: pd.DataFrame
    facts: Facts

    @computed_once
    def angular(self) -> pd.DataFrame:
        """``angular.parquet``: angular distance across every block of layers."""
        return angular_table(self.similarity, self.facts.seed)

    @computed_once
    def influence(self) -> pd.DataFrame:
        """``influence.parquet``: block influence of every layer."""
        return influence_table(self.similarity, self.facts.seed)

    def derived(self) -> dict[str, pd.DataFrame]:
        """``angular`` and ``influence``."""
        return {"angular": self.angular(), "influence": self.influence()}

    def predicts(self, ablation: AblationResult) -> pd.DataFrame:
        """``prediction.parquet``: how well similarity ranks layers by what skipping them costs.

        Args:
            ablation: skips of all layers, of the same model and items.

        Raises:
            UserError: if it is of another model or of other items.
        """
        facts = join_facts([self.facts, ablation.facts])
        seed, tables = self.facts.seed, (self.similarity, self.cka, ablation.records)
        n_encoder = self.facts.model.n_encoder_layers
        return prediction_table(*tables, facts.chance, seed, n_encoder)

    def plot(self) -> Any:
        """Maps of angular distance and CKA, and block influence."""
        from .figures.similarity import similarity_map

        return drawn(self, similarity_map, self.angular(), self.influence(), self.cka)

    def summary_rows(self) -> pd.DataFrame:
        """The layers with the least block influence."""
        return similarity_rows(self.influence(), self.facts.model.n_encoder_layers)


def similarity_rows(influence: pd.DataFrame, n_encoder: int = 0, n_top: int = 3) -> pd.DataFrame:
    """The layers of each task and protocol that turn the stream least."""
    ranked = influence.sort_values(by="influence", kind="stable")
    top = ranked.groupby(["protocol", "task"], sort=True).head(n_top)
    top = top.sort_values(["protocol", "task"], kind="stable")
    found = top.reindex(columns=["protocol", "task"])
    found["layer"] = [layer_name(int(layer), n_encoder) for layer in top["layer"]]
    told = intervals(top, "influence", "low", "high", digits=3)
    return found.assign(**{"block influence [95 %]": told})
