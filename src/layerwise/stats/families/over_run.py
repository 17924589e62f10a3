"""What holds over everything that a run asked: corrections over whole tables, and intervals.

A table is corrected within its parts, too (the layers of one task and protocol, say). Of many such
parts some say something false, and the largest of all effects is the largest partly by luck. Tasks
without signal are among what was asked, though nothing is claimed of them: of a model that hardly
knows the answers, those with signal are the ones in which it was lucky, and any other answers look
like a loss there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Shaped

from layerwise.stats.inference import benjamini_hochberg, holm
from layerwise.stats.items.crossed import CrossedMeans


class Sizes(NamedTuple):
    """Numbers of tests of a run in both families, tasks without signal included."""

    strict: int  # those of which none may be false
    by_rate: int  # those of which a share may be: of heads and cells

    def of_rows(
        self, claimed: Bool[np.ndarray, " rows"], by_rate: Bool[np.ndarray, " rows"] | bool = False
    ) -> pd.Series:
        """The column ``run_tests``: how many tests each row is corrected with."""
        sizes = np.where(np.broadcast_to(by_rate, claimed.shape), self.by_rate, self.strict)
        return pd.Series(sizes, dtype="Int64").where(claimed)


def sizes_of(
    table: pd.DataFrame,
    by_rate: Bool[np.ndarray, " rows"] | bool = False,
    n_asked: int | None = None,
    piece: Sequence[str] = ("task", "protocol"),
) -> Sizes:
    """Count a run's tests, tasks without signal included."""
    rate = np.broadcast_to(np.asarray(by_rate, dtype=bool), len(table))
    counts, there = [], table.groupby(list(piece)).ngroups
    missing = 0 if n_asked is None else max(n_asked - there, 0)
    for sort in (~rate, rate):
        each = table.loc[sort].groupby(list(piece)).size().to_numpy(dtype=int)
        counts.append(int(each.sum() + missing * each.max(initial=0)))
    return Sizes(*counts)


def over_run(
    p: Float[np.ndarray, " rows"],
    claimed: Bool[np.ndarray, " rows"],
    by_rate: Bool[np.ndarray, " rows"] | bool = False,
    sizes: Sizes | None = None,
) -> Float[np.ndarray, " rows"]:
    """p-values corrected over all tests of a run; heads and cells are a family of their own."""
    # Tests of which nothing is claimed count with a p of 1, which is no smaller than their own.
    corrected = np.full(len(p), np.nan)
    rate = np.broadcast_to(np.asarray(by_rate, dtype=bool), corrected.shape)
    whole = _sizes(sizes, rate)
    for sort, n, correct in zip((~rate, rate), whole, (holm, benjamini_hochberg), strict=True):
        rows = claimed & sort
        corrected[rows] = correct(np.asarray(p, dtype=float)[rows], n)
    return corrected


def _sizes(sizes: Sizes | None, rate: Bool[np.ndarray, " rows"]) -> Sizes:
    return sizes or Sizes(int((~rate).sum()), int(rate.sum()))


def exact_difference_bounds(
    lost: Shaped[np.ndarray, " rows"],
    gained: Shaped[np.ndarray, " rows"],
    n: Shaped[np.ndarray, " rows"],
    level: float = 0.95,
    n_tests: int = 1,
) -> tuple[Float[np.ndarray, " rows"], Float[np.ndarray, " rows"]]:
    """Bounds of a paired difference of accuracies that never cover less than they say.

    The narrower of two, at half of the error each, both made of the bounds of Clopper and Pearson
    (1934, Biometrika 26) at half of that: of the share that is lost minus the share that is gained,
    each of which is binomial; and of the share that changes at all times what is lost of it, which
    given the changed items is binomial, too, so that 0 is excluded where McNemar's exact test
    excludes it at a quarter of the level. By Bonferroni's inequality nothing is assumed of how the
    counts go together. Divided by the number of tests (Dunn 1961, J. Am. Stat. Assoc. 56), all
    intervals cover together, and with them that of the largest. Where items ask for the same thing
    all three are told in independent items, of which there may be parts.
    """
    b, c, total = (np.asarray(each) for each in (lost, gained, n))
    tail = (1 - level) / max(n_tests, 1) / 8
    loses, gains, changes = (_binomial_bounds(each, total, tail) for each in (b, c, b + c))
    part = [2 * bound - 1 for bound in _binomial_bounds(b, b + c, tail)]
    low = part[0] * np.where(part[0] > 0, changes[0], changes[1])
    high = part[1] * np.where(part[1] > 0, changes[1], changes[0])
    return np.maximum(low, loses[0] - gains[1]), np.minimum(high, loses[1] - gains[0])


def _binomial_bounds(
    count: Shaped[np.ndarray, " rows"], n: Shaped[np.ndarray, " rows"], tail: float
) -> tuple[Float[np.ndarray, " rows"], Float[np.ndarray, " rows"]]:
    """Clopper and Pearson's bounds, each of which errs with the probability ``tail``."""
    from scipy.special import betaincinv

    low = betaincinv(np.where(count > 0, count, 1), np.maximum(n - count, 0) + 1, tail)
    high = betaincinv(count + 1, np.where(count < n, n - count, 1), 1 - tail)
    return np.where(count > 0, low, 0.0), np.where(count < n, high, 1.0)


def effects_over_run(effects: pd.DataFrame, n_asked: int | None = None) -> dict[str, pd.Series]:
    """Family-wise p-values and accuracy bounds of effects over all tests of a run."""
    claimed = effects["signal"].to_numpy(dtype=bool)
    heads = effects["head"].notna().to_numpy(dtype=bool)
    p = effects["p"].to_numpy(dtype=float)
    sizes = sizes_of(effects, heads, n_asked)
    low, high = np.full((2, len(effects)), np.nan)
    for rows, n_tests in zip((claimed & ~heads, claimed & heads), sizes, strict=True):
        lost, gained, n = independent_counts(effects.loc[rows])
        low[rows], high[rows] = exact_difference_bounds(lost, gained, n, n_tests=n_tests)
        if "crossed" in effects:
            ends = _crossed_bounds(effects.loc[rows], n_tests)
            low[rows], high[rows] = np.fmin(low[rows], ends[0]), np.fmax(high[rows], ends[1])
    columns = {
        "p_run": over_run(p, claimed, heads, sizes),
        "run_tests": sizes.of_rows(claimed, heads),
        "acc_diff_run_low": low,
        "acc_diff_run_high": high,
    }
    return {name: pd.Series(column).set_axis(effects.index) for name, column in columns.items()}


def _crossed_bounds(
    effects: pd.DataFrame, n_tests: int, level: float = 0.95
) -> Float[np.ndarray, "2 rows"]:
    """Bounds that know of the draws of few-shot examples; nan where there is but one draw."""
    tail = (1 - level) / 2 / max(n_tests, 1)
    bounds = np.full((2, len(effects)), np.nan)
    for i, means in enumerate(effects["crossed"]):
        if isinstance(means, CrossedMeans):
            mean, half = float(means.mean[0]), float(means.half_widths(tail)[0])
            bounds[:, i] = max(mean - half, -1.0), min(mean + half, 1.0)
    return bounds


def reach_over_run(
    errors: Float[np.ndarray, " rows"],
    n: Shaped[np.ndarray, " rows"],
    claimed: Bool[np.ndarray, " rows"],
    by_rate: Bool[np.ndarray, " rows"] | bool = False,
    sizes: Sizes | None = None,
    level: float = 0.95,
) -> Float[np.ndarray, " rows"]:
    """Half-widths of simultaneous bounds over all tests of a run."""
    # Student's t at the level divided by the number of tests (Dunn 1961, J. Am. Stat. Assoc. 56).
    from scipy.special import stdtrit

    reach = np.full(len(errors), np.nan)
    rate = np.broadcast_to(np.asarray(by_rate, dtype=bool), reach.shape)
    for sort, n_tests in zip((~rate, rate), _sizes(sizes, rate), strict=True):
        rows = claimed & sort & (n > 1)
        tail = (1 - level) / 2 / max(n_tests, 1)
        reach[rows] = stdtrit(n[rows] - 1.0, 1 - tail) * errors[rows]
    return reach


def independent_counts(effects: pd.DataFrame) -> list[Float[np.ndarray, " rows"]]:
    """Items lost, gained and in all, as so many independent ones (``n_independent``)."""
    every = effects["n_items"].to_numpy(dtype=float)
    alone = effects["n_independent"].to_numpy(dtype=float) if "n_independent" in effects else every
    names = ("n_lost", "n_gained", "n_items")
    return [effects[name].to_numpy(dtype=float) * (alone / every) for name in names]


def exact_where_alike(
    mean: Float[np.ndarray, " rows"], n: Shaped[np.ndarray, " rows"], most: float, n_tests: int = 1
) -> tuple[Float[np.ndarray, " rows"], Float[np.ndarray, " rows"]]:
    """Bounds (95 %) of means of values that are the same in all items of the sample."""
    # A share of the other items that such a sample would not show (Clopper and Pearson 1934,
    # Biometrika 26, none of n) may have any other value.
    unseen = _binomial_bounds(np.zeros(len(mean)), np.asarray(n), 0.025 / max(n_tests, 1))[1]
    return mean - unseen * (most + mean), mean + unseen * (most - mean)
