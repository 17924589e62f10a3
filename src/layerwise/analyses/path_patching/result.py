"""The typed result of path patching, and the compact table that it shows in a notebook."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from layerwise.analyses.patching.tables import NO_PAIR, pair_notes, path_effects
from layerwise.presentation.columns import (
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

# Paths in the short view.
_SHOWN = 10
PATHS = (
    *plain("task", "direction", "sender", "receiver"),
    text_column("pairs", "n_items"),
    estimate_column("share (%)", "recovered", "recovered_", 100),
    p_column("p (BH)", "p_bh"),
)


@dataclass(frozen=True, repr=False, eq=False)
class PathPatchingResult(Result):
    """Direct effect of each component on a receiver (path patching).

    Attributes:
        path_patching: ``path_patching.parquet``.
        facts: what is needed to repeat the run.
    """

    tables: ClassVar[tuple[str, ...]] = ("path_patching",)
    derived_by: ClassVar[dict[str, str]] = {"path_effects": "effects"}
    title: ClassVar[str] = "Path patching: which components act on a receiver directly"
    if_empty: ClassVar[str] = NO_PAIR

    path_patching: pd.DataFrame
    facts: Facts

    @cache_tables
    def effects(self) -> pd.DataFrame:
        """``path_effects``: averages over pairs, with intervals and tests."""
        return path_effects(self.path_patching, self.facts.seed)

    def _figure(self) -> Any:
        """Heat maps of what each head and MLP carries to a receiver."""
        from .figures import path_senders

        effects = self.effects()
        return draw_table(self, path_senders, effects.loc[effects["layer"] >= 0])

    def notes(self) -> list[str]:
        """Items that are left out, and how many pairs the model solves where it has no signal."""
        return pair_notes(self.path_patching, self.facts, "path patching")

    def summary_rows(self) -> pd.DataFrame:
        """The paths that matter most."""
        effects = self.effects()
        size = -np.abs(effects["recovered"].to_numpy(dtype=float))
        top = effects.iloc[np.argsort(size, kind="stable")].head(_SHOWN)
        return in_short(self, drop_columns(PATHS, "pairs"), top)
