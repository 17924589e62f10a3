"""Intervals, tests and corrections for paired effects over items.

They take and return plain numbers: no tasks, no tables.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from .resampling import resample_indices, resampled_means, row_chunks


@dataclass(frozen=True)
class Interval:
    """An estimate and the interval around it.

    Attributes:
        estimate: the point estimate; nan if there is none.
        low: lower bound; nan where nothing can be said, -inf where it is unbounded.
        high: upper bound; nan where nothing can be said, inf where it is unbounded.
        level: the coverage aimed at, e.g. 0.95.
    """

    estimate: float
    low: float
    high: float
    level: float


class Bounds(NamedTuple):
    """Lower and upper bounds, one of each per column."""

    low: Float[np.ndarray, " columns"]
    high: Float[np.ndarray, " columns"]


# A run has the same few counts many times, and the search for a bound takes time.
@lru_cache(maxsize=4096)
def exact_interval(successes: int, n: int, level: float = 0.95) -> Interval:
    """Clopper-Pearson interval of a proportion (Clopper and Pearson 1934, Biometrika 26).

    Args:
        successes: how many of the ``n`` trials succeeded.
        n: number of trials; with none the interval is all of [0, 1] and the estimate nan.
        level: coverage; this interval never covers less.

    Returns:
        The proportion and its interval, in 0..1.

    Raises:
        ValueError: if ``successes`` is not in 0..``n``.
    """
    from scipy.stats import binomtest

    if n == 0 and successes == 0:
        return Interval(np.nan, 0.0, 1.0, level)
    bounds = binomtest(successes, n).proportion_ci(level, method="exact")
    return Interval(successes / n, float(bounds.low), float(bounds.high), level)


def above_chance(correct: Bool[np.ndarray, " items"], chance: float, level: float = 0.95) -> bool:
    """True if the exact interval of the accuracy lies above ``chance``.

    Args:
        correct: one answer per item; with no items nothing is above chance.
        chance: accuracy by guessing, in 0..1.
        level: coverage of the interval.
    """
    return exact_interval(int(correct.sum()), len(correct), level).low > chance


def mcnemar_exact(b: int, c: int) -> float:
    """Two-sided exact McNemar test (McNemar 1947, Psychometrika 12; exact: binomial).

    Args:
        b: items that only the first condition gets right.
        c: items that only the second condition gets right.

    Returns:
        The p-value; 1 if no item differs.
    """
    return float(mcnemar_p_values(np.array([b]), np.array([c]))[0])


def mcnemar_p_values(
    b: Int[np.ndarray, "*shape"], c: Int[np.ndarray, "*shape"]
) -> Float[np.ndarray, "*shape"]:
    """``mcnemar_exact`` for whole arrays of discordant counts."""
    from scipy.special import bdtr

    return np.minimum(1.0, 2.0 * bdtr(np.minimum(b, c).astype(float), b + c, 0.5))


def percentile_bounds(draws: Float[np.ndarray, "resamples columns"], level: float) -> Bounds:
    """Percentile bootstrap bounds per column (Efron and Tibshirani 1993, chapter 13).

    An undefined draw (nan) could have been anything, so it counts at both ends: a share
    of them above ``(1 - level) / 2`` makes the bounds infinite. Percentiles are rounded
    outwards to a draw.
    """
    if not len(draws):
        return Bounds(*np.full((2, draws.shape[1]), np.nan))
    missing, tail = np.isnan(draws), (1 - level) / 2
    low = np.quantile(np.where(missing, -np.inf, draws), tail, axis=0, method="lower")
    high = np.quantile(np.where(missing, np.inf, draws), 1 - tail, axis=0, method="higher")
    return Bounds(low, high)


def expanded_level(n: int) -> float:
    """The level at which percentile bounds of n clusters are as wide as those of t at 95 %."""
    # The spread of resamples is too small by a factor of sqrt((n - 1) / n), and percentiles know
    # nothing of the long tails of t (expanded percentiles: Hesterberg 2015, Am. Stat. 69).
    from scipy.special import ndtr, stdtrit

    reach = np.sqrt(n / (n - 1)) * stdtrit(n - 1, (1 + 0.95) / 2)
    return float(2 * ndtr(reach) - 1)


def paired_bootstrap(
    differences: Float[np.ndarray, " n"] | Sequence[float],
    *,
    seed: int | np.random.Generator,
    n_resamples: int = 2000,
    level: float = 0.95,
) -> Interval:
    """Mean of paired differences with a percentile bootstrap interval over items.

    Args:
        differences: one difference per item, in any unit. None at all gives nan throughout;
            a single one gives nan bounds, for one item says nothing of the spread.
        seed: an int or a generator.
        n_resamples: number of bootstrap samples.
        level: coverage aimed at; below about 20 items it is not reached.
    """
    values = np.asarray(differences, dtype=float)
    if len(values) < 2 or np.isnan(values).any():
        return Interval(float(values.mean()) if len(values) else np.nan, np.nan, np.nan, level)
    draws = resampled_means(values[:, None], resample_indices(len(values), n_resamples, seed))
    bounds = percentile_bounds(draws, level)
    return Interval(float(values.mean()), float(bounds.low[0]), float(bounds.high[0]), level)


def mean_p_values(values: Float[np.ndarray, "n columns"]) -> Float[np.ndarray, " columns"]:
    """Two-sided one-sample t-test of every column's mean against 0 (Student 1908, Biometrika 6).

    Args:
        values: one row per item.

    Returns:
        The p-values; 1 for fewer than two items, and where all values are 0. Equal values that
        are not 0 give 0.
    """
    n = len(values)
    error = values.std(axis=0, ddof=1) / np.sqrt(n) if n > 1 else np.zeros(values.shape[1])
    return t_p_values(values.mean(axis=0), error, n)


def t_p_values(
    mean: Float[np.ndarray, " columns"], error: Float[np.ndarray, " columns"], n: int
) -> Float[np.ndarray, " columns"]:
    """Two-sided p-values of means that are 0, by their errors over so many independent values."""
    from scipy.stats import t

    if n < 2:
        return np.ones(len(mean))
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = np.where(mean == 0, 0.0, np.abs(mean) / error)
    return np.asarray(2 * t.sf(statistic, n - 1))


def sign_flip_p_values(
    differences: Float[np.ndarray, "n columns"],
    *,
    seed: int | np.random.Generator,
    n_flips: int = 10_000,
) -> Float[np.ndarray, " columns"]:
    """Two-sided randomisation test of the mean of paired differences, per column.

    Under the null either sign of a difference is as likely (Fisher 1935, The Design of
    Experiments, section 21). All flips of up to 16 items are tried; of more, so many drawn at
    random, with one added to count and total (Phipson and Smyth 2010, SAGMB 9).

    Args:
        differences: one row per item; nan where an item has none, which then counts for nothing.
        seed: an int or a generator.
        n_flips: how many flips are drawn.

    Returns:
        The p-values; 1 where there is no item, or none that differs.
    """
    values = np.nan_to_num(np.asarray(differences, dtype=float))
    # what differs by rounding alone counts as equal
    least = np.abs(values.sum(axis=0)) * (1 - 1e-9)
    reached = np.zeros(values.shape[1], dtype=int)
    for signs in _signs(len(values), seed, n_flips):
        reached += (np.abs(signs @ values) >= least).sum(axis=0)
    return _reached_p(reached, len(values), n_flips)


def joint_sign_flip_p(
    vectors: Float[np.ndarray, "n columns"],
    *,
    seed: int | np.random.Generator,
    n_flips: int = 10_000,
) -> float:
    """As ``sign_flip_p_values``, one test of all means: that their vector has length 0.

    All columns of an item are flipped together, so their dependence is kept.

    Args:
        vectors: one row per item.
        seed: an int or a generator.
        n_flips: how many flips are drawn.

    Returns:
        The p-value; 1 where there is no item, or all is 0.
    """
    least = np.linalg.norm(vectors.sum(axis=0)) * (1 - 1e-9)
    lengths = [
        np.linalg.norm(signs @ vectors, axis=1) for signs in _signs(len(vectors), seed, n_flips)
    ]
    reached = np.array([(np.concatenate(lengths) >= least).sum()])
    return float(_reached_p(reached, len(vectors), n_flips)[0])


# Of so few items all flips are tried.
_ALL_FLIPS = 16


def _signs(
    n: int, seed: int | np.random.Generator, n_flips: int
) -> Iterator[Float[np.ndarray, "flips n"]]:
    """The flips in chunks of rows."""
    if n > _ALL_FLIPS:
        random = np.random.default_rng(seed)
        for rows in row_chunks(n_flips, n):
            yield random.choice([-1.0, 1.0], size=(rows.stop - rows.start, n))
        return
    numbers = np.arange(_n_all_flips(n))
    yield np.where(numbers[:, None] >> np.arange(n) & 1, -1.0, 1.0)


def _n_all_flips(n: int) -> int:
    """Number of flips: turning all signs changes nothing, so the first one stays."""
    return 2 ** max(n - 1, 0)


def _reached_p(
    reached: Int[np.ndarray, " columns"], n: int, n_flips: int
) -> Float[np.ndarray, " columns"]:
    return reached / _n_all_flips(n) if n <= _ALL_FLIPS else (reached + 1) / (n_flips + 1)


def two_sided_p(differences: Float[np.ndarray, " draws"], least: float = 0.0) -> float:
    """Two-sided bootstrap p-value of "no difference" (Efron and Tibshirani 1993, section 15)."""
    # Twice the smaller share of the draws on either side of 0, with one added to the count and to
    # the number of draws, so that it is never 0 (Davison and Hinkley 1997, section 4.2).
    fewer = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    return min(1.0, max(least, 2 * (fewer + 1) / (len(differences) + 1)))


def rank_correlations(
    one: Float[np.ndarray, "rows columns"], other: Float[np.ndarray, "rows columns"]
) -> Float[np.ndarray, " rows"]:
    """Spearman's rank correlation over the columns, row by row; nan where one is constant.

    Spearman 1904, Am. J. Psychol. 15. Ties share their mean rank.
    """
    from scipy.stats import rankdata

    ranks = [rankdata(x, axis=1) - (x.shape[1] + 1) / 2 for x in (one, other)]
    for rank, values in zip(ranks, (one, other), strict=True):
        rank[np.isnan(values).any(axis=1)] = np.nan
    size = np.sqrt((ranks[0] ** 2).sum(axis=1) * (ranks[1] ** 2).sum(axis=1))
    return (ranks[0] * ranks[1]).sum(axis=1) / np.where(size > 0, size, np.nan)


def shares(
    intact: Float[np.ndarray, "*rows 1"],
    changed: Float[np.ndarray, "*rows columns"],
    floor: Float[np.ndarray, "*rows 1"] | float,
) -> Float[np.ndarray, "*rows columns"]:
    """(intact - changed) / (intact - floor) of accuracies; nan where intact <= floor."""
    above = intact - floor
    return (intact - changed) / np.where(above > 1e-12, above, np.nan)


def share_lost(
    intact: Bool[np.ndarray, " n"],
    changed: Bool[np.ndarray, " n"],
    chance: float,
    *,
    seed: int | np.random.Generator,
    n_resamples: int = 2000,
    level: float = 0.95,
) -> Interval:
    """Share of the above-chance accuracy that a change costs, with a bootstrap interval.

    Numerator and denominator are taken from the same resampled items. A resample whose
    denominator is not above 0 has no share; it counts at both ends of the interval, which is
    therefore unbounded when more than ``(1 - level) / 2`` of the resamples are like that.

    Args:
        intact: the answers before the change, one per item.
        changed: the answers after it, of the same items.
        chance: accuracy by guessing.
        seed: an int or a generator.
        n_resamples: number of bootstrap samples.
        level: coverage aimed at.

    Returns:
        1 means down to chance, 0 nothing lost, below 0 a gain. All nan if the intact accuracy
        is not above chance; nan bounds for a single item.
    """
    both = np.stack([intact, changed], axis=1)
    if not len(both):
        return Interval(np.nan, np.nan, np.nan, level)
    estimate = float(shares(intact.mean(keepdims=True), changed.mean(keepdims=True), chance)[0])
    if np.isnan(estimate) or len(both) < 2:
        return Interval(estimate, np.nan, np.nan, level)
    draws = resampled_means(both, resample_indices(len(both), n_resamples, seed))
    bounds = percentile_bounds(shares(draws[:, :1], draws[:, 1:], chance), level)
    return Interval(estimate, float(bounds.low[0]), float(bounds.high[0]), level)


def holm(
    p_values: Float[np.ndarray, "*rows m"], n_tests: int | None = None
) -> Float[np.ndarray, "*rows m"]:
    """Holm's step-down adjusted p-values along the last axis (Holm 1979, Scand. J. Stat. 6).

    Controls the chance of any false claim, whatever the dependence between the tests.

    Args:
        p_values: the p-values.
        n_tests: how many tests are corrected together, ``m`` or more; those beyond the p-values
            count with a p of 1. ``m`` if None.
    """
    order, m = np.argsort(p_values, axis=-1), p_values.shape[-1]
    left = (m if n_tests is None else n_tests) - np.arange(m)
    stepped = np.maximum.accumulate(np.take_along_axis(p_values, order, -1) * left, axis=-1)
    adjusted = np.empty_like(p_values)
    np.put_along_axis(adjusted, order, np.minimum(stepped, 1.0), -1)
    return adjusted


def benjamini_hochberg(
    p_values: Float[np.ndarray, "*rows m"], n_tests: int | None = None
) -> Float[np.ndarray, "*rows m"]:
    """Benjamini-Hochberg adjusted p-values along the last axis (1995, J. R. Stat. Soc. B 57).

    Controls the expected share of false claims among the claims, for independent or
    positively dependent tests.

    Args:
        p_values: the p-values.
        n_tests: as in ``holm``.
    """
    from scipy.stats import false_discovery_control

    if not p_values.size:
        return p_values.copy()
    m = p_values.shape[-1]
    unseen = np.ones((*p_values.shape[:-1], (m if n_tests is None else n_tests) - m))
    every = np.concatenate([p_values, unseen], axis=-1)
    return np.asarray(false_discovery_control(every, axis=-1))[..., :m]
