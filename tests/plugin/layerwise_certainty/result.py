"""The typed result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd

from layerwise.presentation.columns import LAYER, estimate_column, in_short, plain
from layerwise.storage.base import Result, cache_tables
from layerwise.storage.parquet import conform
from layerwise.storage.provenance import Facts

COLUMNS = (
    *plain("task", "protocol"),
    LAYER,
    estimate_column("entropy (nats)", "entropy", "", 1, 2),
)


@dataclass(frozen=True, repr=False, eq=False)
class CertaintyResult(Result):
    """Entropy of the logit lens after each layer.

    Attributes:
        certainty: ``certainty.parquet``.
        facts: what is needed to repeat the run.
    """

    tables: ClassVar[tuple[str, ...]] = ("certainty",)
    derived_by: ClassVar[dict[str, str]] = {"certainty_layers": "layers"}
    title: ClassVar[str] = "Certainty: how sure the lens is after each layer"
    if_empty: ClassVar[str] = "No prompt was read."

    certainty: pd.DataFrame
    facts: Facts

    @cache_tables
    def layers(self) -> pd.DataFrame:
        """Mean entropy after each layer, with a normal interval over items."""
        by = self.certainty.groupby(
            ["task", "capability", "protocol", "layer"], as_index=False, sort=False
        )
        table = by.agg(n_items=("item", "size"), entropy=("entropy", "mean"), sd=("entropy", "std"))
        half = 1.96 * table.pop("sd").fillna(0) / np.sqrt(table["n_items"])
        whole = table.assign(low=table["entropy"] - half, high=table["entropy"] + half)
        return conform("certainty_layers", whole)

    def summary_rows(self) -> pd.DataFrame:
        """All layers."""
        return in_short(self, COLUMNS, self.layers())
