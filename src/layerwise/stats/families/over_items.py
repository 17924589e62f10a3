"""Tables averaged over items, with intervals: the lens's, and the bounds that patching shares."""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Float

from layerwise.stats.items.clusters import Clusters, clusters_from_table

from .estimate import bootstrap_means, bounded_columns

TASK = ["task", "capability", "protocol"]


def lens_summary(lens: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Averages over items per task, protocol and place, with bootstrap 95 % intervals."""
    cell = ["lens", "over", "site", "pos", "layer"]
    table = lens.groupby([*TASK, *cell], as_index=False).agg(
        n_items=("item", "nunique"),
        median_rank=("rank", "median"),
        logprob=("logprob", "mean"),
        entropy=("entropy", "mean"),
        kl=("kl", "mean"),
    )
    bounds = bounds_over_items(lens, cell, "logprob", seed)
    bounds = bounds.rename(columns={"low": "logprob_low", "high": "logprob_high"})
    merged = table.merge(bounds.drop(columns="estimate"), on=[*TASK, *cell])
    order = ["n_items", "median_rank", "logprob", "logprob_low", "logprob_high", "entropy", "kl"]
    return merged.reindex(columns=[*TASK, *cell, *order])


def pruning_summary(pruning: pd.DataFrame) -> pd.DataFrame:
    """Accuracies of the intact, the predicted and the written model, and how the last two agree."""
    gap = pruning["predicted_gold_logprob"] - pruning["measured_gold_logprob"]
    same = pruning["predicted_generated"] == pruning["measured_generated"]
    wrote = pruning["predicted_generated"].notna()
    table = pruning.assign(gap=gap.abs(), same=same.astype(float).where(wrote))
    return table.groupby(TASK, as_index=False).agg(
        n_items=("item", "nunique"),
        intact_accuracy=("intact_correct", "mean"),
        predicted_accuracy=("predicted_correct", "mean"),
        measured_accuracy=("measured_correct", "mean"),
        largest_difference=("gap", "max"),
        same_texts=("same", "mean"),
    )


def bounds_over_items(table: pd.DataFrame, cell: list[str], value: str, seed: int) -> pd.DataFrame:
    """Mean of ``value`` per task and cell (``estimate``, ``low``, ``high``), over items."""
    parts = []
    for _, group in table.groupby(TASK):
        wide = group.pivot_table(index="item", columns=cell, values=value, aggfunc="mean")
        clusters, task = clusters_from_table(group, wide.index), str(group["task"].iloc[0])
        draws = nan_means(wide.to_numpy(dtype=float), clusters, task, seed)
        parts.append(
            wide.columns.to_frame(index=False).assign(
                **{name: group[name].iloc[0] for name in TASK},
                **bounded_columns("estimate", "", draws, len(wide)),
            )
        )
    columns = [*TASK, *cell, "estimate", "low", "high"]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def nan_means(
    values: Float[np.ndarray, "items columns"], clusters: Clusters, task: str, seed: int
) -> Float[np.ndarray, "draws columns"]:
    """Means over the items that have a value, in the sample (row 0) and in resamples."""
    # An item may lack a cell, as a label that its prompt has no position for.
    there = ~np.isnan(values)
    weight, means = bootstrap_means(task, clusters, seed, there, np.where(there, values, 0.0))
    return means / np.where(weight > 0, weight, np.nan)
