"""Tables averaged over items, with intervals: the lens's, and the bounds that patching shares."""

from __future__ import annotations

import numpy as np
import pandas as pd

from layerwise import stats

from .clusters import Clusters, clusters_of, sample_and_resamples

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
    bounds = bounds_over_items(lens, cell, "logprob", None, seed)
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


def bounds_over_items(
    table: pd.DataFrame, cell: list[str], value: str, divisor: str | None, seed: int
) -> pd.DataFrame:
    """Mean of ``value`` (over mean of ``divisor``) per task and cell, resampled over items."""
    parts = [_task_bounds(group, cell, value, divisor, seed) for _, group in table.groupby(TASK)]
    columns = [*TASK, *cell, "estimate", "low", "high"]
    if not parts:
        return pd.DataFrame(columns=columns)
    return pd.concat(parts, ignore_index=True).reindex(columns=columns)


def _task_bounds(
    group: pd.DataFrame, cell: list[str], value: str, divisor: str | None, seed: int
) -> pd.DataFrame:
    task = str(group["task"].iloc[0])
    wide = group.pivot_table(index="item", columns=cell, values=value, aggfunc="mean")
    clusters = clusters_of(group, wide.index)
    draws = _draws(wide, task, seed, clusters)
    if divisor:
        whole = group.pivot_table(index="item", columns=cell, values=divisor, aggfunc="mean")
        below = _draws(whole, task, seed, clusters)
        draws = draws / np.where(below > 0, below, np.nan)
    low, high = stats.percentile_bounds(draws[1:], 0.95)
    is_known = ~np.isnan(draws[0]) & (len(wide) > 1)
    bounds = pd.DataFrame({"estimate": draws[0]}, index=wide.columns)
    for name, bound in (("low", low), ("high", high)):
        bounds[name] = np.where(is_known & np.isfinite(bound), bound, np.nan)
    return bounds.reset_index().assign(**{name: group[name].iloc[0] for name in TASK})


def _draws(wide: pd.DataFrame, task: str, seed: int, clusters: Clusters) -> np.ndarray:
    """Means of the columns in the sample itself (row 0) and in resamples of its clusters."""
    # An item may lack a cell (a label that its prompt has no position for); the mean is over those
    # that have it.
    values = wide.to_numpy(dtype=float)
    indices = sample_and_resamples(clusters.n, 2000, stats.generator(seed, task))
    there = ~np.isnan(values)
    weight = clusters.resampled_means(there, indices)
    means = clusters.resampled_means(np.where(there, values, 0.0), indices)
    return means / np.where(weight > 0, weight, np.nan)
