"""The typed result of the similarity of layers, and its compact table for notebooks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd

from layerwise.analyses.ablation.result import AblationResult
from layerwise.presentation.columns import (
    LAYER,
    Column,
    Row,
    estimated,
    in_short,
    named,
    p_column,
    plain,
    without,
)
from layerwise.presentation.drawing import drawn
from layerwise.storage.base import Result, computed_once
from layerwise.storage.provenance import Facts, join_facts

from .tables import angular_table, influence_table, prediction_table

# Layers of a task and protocol in the short view.
_SHOWN = 3


@dataclass(frozen=True, repr=False, eq=False)
class SimilarityResult(Result):
    """Similarity of the residual streams before and after layers.

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
        from .figures import similarity_map

        return drawn(self, similarity_map, self.angular(), self.influence(), self.cka)

    def summary_rows(self) -> pd.DataFrame:
        """The layers with the least block influence."""
        ranked = self.influence().sort_values(by="influence", kind="stable")
        top = ranked.groupby(["protocol", "task"], sort=True).head(_SHOWN)
        top = top.sort_values(["protocol", "task"], kind="stable")
        return in_short(self, without(INFLUENCE, "n"), top)


def _of_stack(row: Row) -> str:
    """How many layers a row is about, and of which stack if of one alone."""
    return str(row["n_layers"]) + ("" if pd.isna(row["stack"]) else f" ({row['stack']})")


INFLUENCE = (
    *plain("task", "protocol"),
    LAYER,
    named("n", "n_items"),
    estimated("block influence", "influence", "", 1, 3),
)
PREDICTION = (
    *plain("capability", "protocol"),
    named("measure", "predictor"),
    *plain("effect"),
    Column("layers", _of_stack),
    named("n", "n_items"),
    estimated("rank correlation", "rho", "", 1, 2),
    p_column("p (Holm)", "p_holm"),
)
