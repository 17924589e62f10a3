"""Estimates with bounds and tests: corrected within a table, and over everything that a run asked.

The corrections themselves are in ``multiplicity.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Shaped

from layerwise.stats.inference import percentile_bounds
from layerwise.stats.items.clusters import Clusters, independent_items, sample_and_resamples
from layerwise.stats.items.crossed import CrossedMeans
from layerwise.stats.resampling import generator, resample_indices

from .multiplicity import correct_run_wide, correct_within, count_tests

N_RESAMPLES = 2000
ALPHA = 0.05
Ends = tuple[Float[np.ndarray, " rows"], Float[np.ndarray, " rows"]]
# Bounds of the rows of a table that cover together over so many tests.
RunBounds = Callable[[pd.DataFrame, int], Ends]


def estimate(
    table: pd.DataFrame,
    bounds: RunBounds,
    by: Sequence[str],
    *,
    by_rate: Bool[np.ndarray, " rows"] | bool = False,
    n_asked: int | None = None,
    part: Sequence[str] = ("task", "protocol"),
    ends: str = "run_",
) -> pd.DataFrame:
    """Add corrections within parts and over the run, and the signal gate, to rows with a ``p``."""
    # Null ``p`` is no test; where ``signal`` is false nothing is claimed. Rows that share the
    # columns ``by`` are corrected together (``p_holm``, ``p_bh``), those of ``by_rate`` by
    # Benjamini and Hochberg, a family of their own. ``n_asked`` counts all parts (columns ``part``)
    # that the run asked for, those without a row as well; ``ends`` begins the names of the bounds
    # over the run.
    p = table["p"].to_numpy(dtype=float)
    tested = ~np.isnan(p)
    signal = table["signal"].fillna(True).to_numpy(dtype=bool) if "signal" in table else True
    claimed, rate = tested & signal, np.broadcast_to(np.asarray(by_rate, dtype=bool), len(p))
    of_holm, of_rate = (correct_within(table, by, by_rate=sort) for sort in (False, True))
    within = np.where(rate, of_rate, of_holm)
    sizes = count_tests(table.loc[tested], rate[tested], n_asked, part)
    low, high = np.full((2, len(p)), np.nan)
    for rows, n_tests in zip((claimed & ~rate, claimed & rate), sizes, strict=True):
        low[rows], high[rows] = bounds(table.loc[rows], n_tests)
    return table.assign(
        p_holm=of_holm,
        p_bh=of_rate,
        p_table=within,
        significant=claimed & (within < ALPHA),
        p_run=correct_run_wide(p, claimed, rate, sizes),
        run_tests=sizes.by_row(claimed, rate).set_axis(table.index),
        **{f"{ends}low": low, f"{ends}high": high},
    )


def bootstrap_means(
    task: str,
    clusters: Clusters,
    seed: int,
    *values: Shaped[np.ndarray, "items ..."],
) -> list[Float[np.ndarray, "draws columns"]]:
    """Means over items of several tables: of the sample (row 0), and of the same resamples."""
    indices = sample_and_resamples(clusters.n, N_RESAMPLES, generator(seed, task))
    means = clusters.resampled_means(np.column_stack(values), indices)
    widths = [1 if value.ndim == 1 else value.shape[1] for value in values]
    return np.split(means, np.cumsum(widths)[:-1], axis=1)


def bounded_columns(
    name: str, ends: str, draws: Float[np.ndarray, "draws columns"], n: int
) -> dict[str, Any]:
    """Estimates with their 95 % percentile bounds, as columns ``name``, ``ends`` + low and high."""
    estimates = draws[0]
    known = ~np.isnan(estimates) & (n > 1)
    low, high = (np.where(known & np.isfinite(end), end, np.nan)
                 for end in percentile_bounds(draws[1:], 0.95))  # fmt: skip
    return {name: estimates, f"{ends}low": low, f"{ends}high": high}


def mean_columns(
    name: str,
    ends: str,
    values: Float[np.ndarray, "items columns"],
    clusters: Clusters,
    random: np.random.Generator,
) -> dict[str, Any]:
    """The same of means over items, from resamples alone."""
    drawn = clusters.resampled_means(values, resample_indices(clusters.n, N_RESAMPLES, random))
    means = values.mean(axis=0)
    return bounded_columns(name, ends, np.concatenate([means[None], drawn]), clusters.n)


def exact(rows: pd.DataFrame, n_tests: int) -> Ends:
    """Bounds of paired differences of accuracies, which also know of draws of examples."""
    lost, gained, n = independent_counts(rows)
    low, high = exact_difference_bounds(lost, gained, n, n_tests=n_tests)
    tail = (1 - 0.95) / 2 / max(n_tests, 1)
    crossed: Any = rows.get("crossed", ())
    for i, means in enumerate(crossed):
        if isinstance(means, CrossedMeans):
            mean, half = float(means.mean[0]), float(means.half_widths(tail)[0])
            low[i] = min(low[i], max(mean - half, -1.0))
            high[i] = max(high[i], min(mean + half, 1.0))
    return low, high


def student(name: str) -> RunBounds:
    """Bounds of means by their standard errors (``error``) over clusters (``n_clusters``)."""
    # Student's t at the level divided by the number of tests (Dunn 1961, J. Am. Stat. Assoc. 56).
    from scipy.special import stdtrit

    def bounds(rows: pd.DataFrame, n_tests: int) -> Ends:
        n = rows["n_clusters"].to_numpy(dtype=float)
        mean, error = (rows[column].to_numpy(dtype=float) for column in (name, "error"))
        freedom = np.where(n > 1, n - 1.0, np.nan)
        reach = stdtrit(freedom, 1 - (1 - 0.95) / 2 / max(n_tests, 1)) * error
        return mean - reach, mean + reach

    return bounds


def finite_or_none(value: float) -> float | None:
    """The value; None where there is none, or no end."""
    return float(value) if np.isfinite(value) else None


def exact_difference_bounds(
    lost: Shaped[np.ndarray, " rows"],
    gained: Shaped[np.ndarray, " rows"],
    n: Shaped[np.ndarray, " rows"],
    n_tests: int = 1,
) -> tuple[Float[np.ndarray, " rows"], Float[np.ndarray, " rows"]]:
    """Bounds (95 %) of a paired difference of accuracies that never cover less than they say."""
    # The narrower of two, at half of the error each, made of Clopper and Pearson's bounds (1934,
    # Biometrika 26) at half of that: of the share lost minus the share gained; and of the share
    # that changes times what is lost of it, binomial given the changed items, so that 0 is excluded
    # where McNemar's exact test excludes it at a quarter of the level. By Bonferroni's inequality
    # nothing is assumed of how the counts go together; divided by the number of tests (Dunn 1961,
    # J. Am. Stat. Assoc. 56) all intervals cover together. Where items ask for the same thing all
    # three are in independent items, of which there may be parts.
    b, c, total = (np.asarray(each) for each in (lost, gained, n))
    tail = (1 - 0.95) / max(n_tests, 1) / 8
    loses, gains, changes = (_binomial_bounds(each, total, tail) for each in (b, c, b + c))
    part = [2 * bound - 1 for bound in _binomial_bounds(b, b + c, tail)]
    low = part[0] * np.where(part[0] > 0, changes[0], changes[1])
    high = part[1] * np.where(part[1] > 0, changes[1], changes[0])
    return np.maximum(low, loses[0] - gains[1]), np.minimum(high, loses[1] - gains[0])


def paired_bounds(
    net: Shaped[np.ndarray, " items"], clusters: Clusters, n_tests: int = 1
) -> tuple[float, float]:
    """The same of one difference, by what items gain (above 0) and lose."""
    changes = [net > 0, net < 0]
    alone = min(float(independent_items(each[:, None], clusters)[0]) for each in changes)
    gained, lost = (each.sum(keepdims=True) * (alone / len(each)) for each in changes)
    low, high = exact_difference_bounds(gained, lost, np.full(1, alone), n_tests=n_tests)
    return float(low[0]), float(high[0])


def _binomial_bounds(
    count: Shaped[np.ndarray, " rows"], n: Shaped[np.ndarray, " rows"], tail: float
) -> tuple[Float[np.ndarray, " rows"], Float[np.ndarray, " rows"]]:
    """Clopper and Pearson's bounds, each of which errs with the probability ``tail``."""
    from scipy.special import betaincinv

    low = betaincinv(np.where(count > 0, count, 1), np.maximum(n - count, 0) + 1, tail)
    high = betaincinv(count + 1, np.where(count < n, n - count, 1), 1 - tail)
    return np.where(count > 0, low, 0.0), np.where(count < n, high, 1.0)


def independent_counts(effects: pd.DataFrame) -> list[Float[np.ndarray, " rows"]]:
    """Items lost, gained and in all, as so many independent ones (``n_independent``)."""
    every = effects["n_items"].to_numpy(dtype=float)
    alone = effects["n_independent"].to_numpy(dtype=float) if "n_independent" in effects else every
    names = ("n_lost", "n_gained", "n_items")
    return [effects[name].to_numpy(dtype=float) * (alone / every) for name in names]


def equal_value_bounds(
    mean: Float[np.ndarray, " rows"], n: Shaped[np.ndarray, " rows"], most: float, n_tests: int = 1
) -> tuple[Float[np.ndarray, " rows"], Float[np.ndarray, " rows"]]:
    """Bounds (95 %) of means of values that are the same in all items of the sample."""
    # A share of the other items that such a sample would not show (Clopper and Pearson 1934,
    # Biometrika 26, none of n) may have any other value.
    unseen = _binomial_bounds(np.zeros(len(mean)), np.asarray(n), 0.025 / max(n_tests, 1))[1]
    return mean - unseen * (most + mean), mean + unseen * (most - mean)
