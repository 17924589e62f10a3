"""The typed result of activation patching, and the compact table that it shows in a notebook."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd

from layerwise.presentation.columns import (
    LAYER,
    drop_columns,
    estimate_column,
    in_short,
    p_column,
    plain,
    text_column,
)
from layerwise.presentation.section import draw_table
from layerwise.storage.base import Result, cache_tables
from layerwise.storage.provenance import Facts

from .tables import NO_PAIR, pair_notes, patching_effects, patching_summary

CELLS = (
    *plain("task", "direction", "site"),
    LAYER,
    *plain("head"),
    text_column("position", "pos_label"),
    text_column("pairs", "n_items"),
    estimate_column("recovered or lost (%)", "recovered", "recovered_", 100),
    p_column("p (BH)", "p_bh"),
)


# Cells in the short view.
_SHOWN = 10


@dataclass(frozen=True, repr=False, eq=False)
class PatchingResult(Result):
    """Effect of each activation patch on the answer.

    Attributes:
        patching: ``patching.parquet``.
        facts: what is needed to repeat the run.
    """

    tables: ClassVar[tuple[str, ...]] = ("patching",)
    derived_by: ClassVar[dict[str, str]] = {"patching_effects": "effects"}
    title: ClassVar[str] = "Activation patching: where the answer comes back"
    if_empty: ClassVar[str] = NO_PAIR

    patching: pd.DataFrame
    facts: Facts

    @cache_tables
    def summary(self) -> pd.DataFrame:
        """Share of the logit difference per cell, with intervals and tests.

        Returns:
            ``task``, ``capability``, ``protocol``, ``direction``, ``site``, ``layer``, ``head``,
            ``pos_label``, ``n_items``, ``recovered``, ``recovered_low``, ``recovered_high``,
            ``p_bh``, ``significant``.
        """
        return patching_summary(self.patching, self.facts.seed)

    @cache_tables
    def effects(self) -> pd.DataFrame:
        """``patching_effects``: the same by every metric, in its unit, too."""
        return patching_effects(self.patching, self.facts.seed)

    def _figure(self) -> Any:
        """The heat map of what patching recovers; of heads, if there is nothing else."""
        from .figures import patching_heads, patching_map

        summary = self.summary()
        if len(summary) and bool(summary["head"].notna().all()):
            return draw_table(self, patching_heads, summary, str(summary["site"].iloc[0]))
        return draw_table(self, patching_map, summary)

    def notes(self) -> list[str]:
        """Items that are left out, and how many pairs the model solves where it has no signal."""
        return pair_notes(self.patching, self.facts, "activation patching")

    def summary_rows(self) -> pd.DataFrame:
        """The layers and positions that recover most."""
        top = self.summary().sort_values(by="recovered", ascending=False, kind="stable")
        return in_short(self, drop_columns(CELLS, "pairs", "p (BH)"), top.head(_SHOWN))
