"""The typed result of attribution patching, and how well estimates agree with true patches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from layerwise import stats
from layerwise.analyses.patching.tables import (
    DENOISING,
    NO_PAIR,
    fill_head_column,
    pair_notes,
    signals_of_pairs,
)
from layerwise.presentation.columns import (
    drop_columns,
    estimate_column,
    in_short,
    number_column,
    plain,
    text_column,
)
from layerwise.presentation.section import draw_table
from layerwise.stats.families.multiplicity import correct_rows
from layerwise.stats.families.rank_correlation import rank_correlation
from layerwise.stats.items.clusters import clusters_from_table, sample_and_resamples
from layerwise.storage.base import Result, cache_tables
from layerwise.storage.parquet import frame
from layerwise.storage.provenance import Facts

AGREEMENT = (
    *plain("task", "direction", "site"),
    text_column("cells", "n_cells"),
    text_column("pairs", "n_items"),
    estimate_column("rank correlation", "spearman", "spearman_", 1, 2),
    number_column("median error (nats)", "median_error", digits=3),
)
_CELL = ["layer", "head", "pos_label"]


@dataclass(frozen=True, repr=False, eq=False)
class AttributionPatchingResult(Result):
    """Gradient estimates of activation patches, with true patches of a sample.

    Attributes:
        attribution_patching: ``attribution_patching.parquet``.
        facts: what is needed to repeat the run.
    """

    tables: ClassVar[tuple[str, ...]] = ("attribution_patching",)
    derived_by: ClassVar[dict[str, str]] = {"attribution_agreement": "agreement"}
    title: ClassVar[str] = "Attribution patching: gradient estimates, and how they agree"
    if_empty: ClassVar[str] = NO_PAIR

    attribution_patching: pd.DataFrame
    facts: Facts

    @cache_tables
    def cells(self) -> pd.DataFrame:
        """Means over pairs of every cell's estimated and true change, nats.

        Returns:
            ``task``, ``capability``, ``protocol``, ``direction``, ``site``, ``layer``, ``head``,
            ``pos_label``, ``n_items``, ``estimate``, ``true`` (nan where it was not patched).
        """
        key = ["task", "capability", "protocol", "direction", "site", *_CELL]
        grouped = _changes(self.attribution_patching).groupby(key, as_index=False, sort=False)
        means = grouped.agg(
            n_items=("item", "nunique"), estimate=("estimate", "mean"), true=("true", "mean")
        )
        heads = means["head"].astype("Int64").where(means["head"] >= 0)
        return means.assign(head=heads, layer=means["layer"].astype("Int64"))

    @cache_tables
    def agreement(self) -> pd.DataFrame:
        """``attribution_agreement``: rank correlation with true patches of a sample."""
        table = self.attribution_patching
        return agreement_table(table, self.facts.seed)

    def _figure(self) -> Any:
        """Estimated against true changes of the logit difference."""
        from .figures import estimate_agreement

        return draw_table(self, estimate_agreement, self.cells(), self.agreement())

    def notes(self) -> list[str]:
        """Items that are left out, and how many pairs the model solves where it has no signal."""
        return pair_notes(self.attribution_patching, self.facts, "attribution patching")

    def summary_rows(self) -> pd.DataFrame:
        """Agreement of estimates and true patches, by task and site."""
        return in_short(self, drop_columns(AGREEMENT, "median error (nats)"), self.agreement())


def _changes(table: pd.DataFrame) -> pd.DataFrame:
    """The table with estimated and true changes in nats, and heads as plain integers."""
    denoised = table["direction"] == DENOISING
    base = table["corrupted_diff"].where(denoised, table["clean_diff"])
    return fill_head_column(table).assign(
        estimate=table["estimated_diff"] - base, true=table["patched_diff"] - base
    )


def agreement_table(table: pd.DataFrame, seed: int, n_resamples: int = 2000) -> pd.DataFrame:
    """``attribution_agreement``: how the estimates compare with true patches."""
    # Rank correlation over cells, each a mean over pairs; a smoothed bootstrap over pairs bounds
    # it.
    rows = []
    key = ["task", "capability", "protocol", "direction", "site"]
    sampled, signals = _changes(table).dropna(subset=["true"]), signals_of_pairs(table)
    grouped: Any = sampled.groupby(key, sort=False)
    for place, changes in grouped:
        where: dict[str, Any] = dict(zip(key, place, strict=True))
        estimate, true = (
            changes.pivot_table(index="item", columns=_CELL, values=name).dropna(axis=1)
            for name in ("estimate", "true")
        )
        n, clusters = len(estimate), clusters_from_table(changes, estimate.index)
        random = stats.generator(seed, str(where["task"]))
        indices = sample_and_resamples(clusters.n, n_resamples, random)
        first, second = (
            clusters.resampled_means(wide.to_numpy(dtype=float), indices)
            for wide in (estimate, true)
        )
        rho = rank_correlation(first, second, clusters.n, random)
        gap = np.abs(first[0] - second[0])
        rows.append({
            **where, "n_items": n, "n_cells": estimate.shape[1],
            **rho.columns("spearman", "spearman_"),
            "median_error": float(np.median(gap)) if len(gap) else None,
            "largest_error": float(gap.max()) if len(gap) else None,
            "signal": signals[where["task"], where["protocol"]],
        })  # fmt: skip
    # a family is all tasks of a direction and site that have signal and could be ranked
    tested = [row for row in rows if row["signal"] is not False and row["spearman_low"] is not None]
    family, to = ("direction", "site"), "spearman_p_holm"
    for row, corrected in zip(
        tested, correct_rows(tested, by=family, p="spearman_p", to=to), strict=True
    ):
        row[to] = corrected[to]
    return frame("attribution_agreement", rows)
