"""The typed result of attribution patching, and the compact table that it shows in a notebook."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd

from layerwise.analyses.patching.tables import NO_PAIR, pair_notes
from layerwise.presentation.columns import in_short, without
from layerwise.presentation.drawing import drawn
from layerwise.storage.base import Result, computed_once
from layerwise.storage.provenance import Facts

from .agreement import agreement_table, cell_means
from .columns import AGREEMENT


@dataclass(frozen=True, repr=False, eq=False)
class AttributionPatchingResult(Result):
    """Gradient estimates of activation patches, with true patches of a sample.

    Attributes:
        attribution_patching: ``attribution_patching.parquet``.
        facts: what is needed to repeat the run.
    """

    tables: ClassVar[tuple[str, ...]] = ("attribution_patching",)
    title: ClassVar[str] = "Attribution patching: gradient estimates, and how they agree"
    if_empty: ClassVar[str] = NO_PAIR

    attribution_patching: pd.DataFrame
    facts: Facts

    @computed_once
    def cells(self) -> pd.DataFrame:
        """Means over pairs of every cell's estimated and true change, nats.

        Returns:
            ``task``, ``capability``, ``protocol``, ``direction``, ``site``, ``layer``, ``head``,
            ``pos_label``, ``n_items``, ``estimate``, ``true`` (nan where it was not patched).
        """
        return cell_means(self.attribution_patching)

    @computed_once
    def agreement(self) -> pd.DataFrame:
        """``attribution_agreement.parquet``: rank correlation with true patches of a sample."""
        table = self.attribution_patching
        return agreement_table(table, self.facts.seed)

    def derived(self) -> dict[str, pd.DataFrame]:
        """``attribution_agreement``."""
        return {"attribution_agreement": self.agreement()}

    def plot(self) -> Any:
        """Estimated against true changes of the logit difference."""
        from .figures import estimate_agreement

        return drawn(self, estimate_agreement, self.cells(), self.agreement())

    def notes(self) -> list[str]:
        """How many pairs the model solves where it has no signal."""
        return pair_notes(self.attribution_patching)

    def summary_rows(self) -> pd.DataFrame:
        """How estimates and true patches agree, by task and site."""
        return in_short(self, without(AGREEMENT, "median error (nats)"), self.agreement())
