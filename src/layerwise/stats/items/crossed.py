"""Means over items and over draws of examples or models, both of which are samples.

All items are asked with the same draws, so that what a draw does to one item it does to all: few
draws say little of how others would have been, however many items there are.
"""

from __future__ import annotations

from math import comb
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from layerwise.stats.inference import Interval

from .clusters import Clusters, mean_errors

_STEPS = 60
# Below this a p-value is 0 for all that is done with it; half of it is tested on either side.
_LEAST_LOG_P = -300.0
_LEVEL = 0.95


class CrossedMeans(NamedTuple):
    """Means over items and draws, by column, with the parts of their squared errors."""

    mean: Float[np.ndarray, " columns"]  # over both
    items: Float[np.ndarray, " columns"]  # from the spread of items, each a mean over draws
    draws: Float[np.ndarray, " columns"]  # from the spread of draws, each a mean over items
    shared: Float[np.ndarray, " columns"]  # the part of both that is neither an item's nor a draw's
    n_items: int  # clusters of items
    n_draws: int

    def half_widths(
        self, tail: Float[np.ndarray, " columns"] | float
    ) -> Float[np.ndarray, " columns"]:
        """Distance from the mean of bounds that err with this probability at each end."""
        # Each part of the squared error has its own quantile of Student's t (Howe 1974, J. Am.
        # Stat. Assoc. 69, for a sum of two means), so that the few draws never borrow the degrees
        # of freedom of the items; what items and draws share is taken off once. It is never less
        # than from items alone.
        from scipy.special import stdtrit

        of_items = stdtrit(max(self.n_items - 1, 1), np.asarray(tail)) ** 2
        of_draws = stdtrit(max(self.n_draws - 1, 1), np.asarray(tail)) ** 2
        alone = np.maximum(self.items - self.shared, 0.0)
        crossed = alone * of_items + self.draws * of_draws
        return np.sqrt(np.maximum(self.items * of_items, crossed))

    def p_values(self, null: float = 0.0) -> Float[np.ndarray, " columns"]:
        """Two-sided p-values: the least level at which bounds leave the hypothesis out."""
        away = np.abs(self.mean - null)
        low, high = np.full((2, len(away)), _LEAST_LOG_P)
        high[:] = np.log(0.5)
        for _ in range(_STEPS):
            middle = (low + high) / 2
            outside = away > self.half_widths(np.exp(middle))
            high, low = np.where(outside, middle, high), np.where(outside, low, middle)
        p = np.where(high <= _LEAST_LOG_P + 1e-6, 0.0, 2 * np.exp(high))
        return np.where(away > 1e-12, p, 1.0)

    def upper_p_values(self, null: float = 0.0) -> Float[np.ndarray, " columns"]:
        """One-sided p-values of "the mean is no larger than this"."""
        half = self.p_values(null) / 2
        return np.where(self.mean > null, half, 1 - half)


def crossed_means(
    values: Float[np.ndarray, "draws items columns"], clusters: Clusters
) -> CrossedMeans:
    """Means of a table of items by draws, whose rows and columns both are samples."""
    n_draws, n_items, _ = values.shape
    mean = values.mean(axis=(0, 1))
    of_item, of_draw = values.mean(axis=0), values.mean(axis=1)
    rest = values - of_item - of_draw[:, None] + mean
    summed = np.stack([clusters.sums(part) for part in rest])
    n = clusters.n
    shared = (summed**2).sum(axis=(0, 1)) * n / max(n - 1, 1)
    return CrossedMeans(
        mean,
        np.nan_to_num(mean_errors(of_item, clusters)) ** 2,
        of_draw.var(axis=0, ddof=1) / n_draws,
        shared / (n_draws - 1) / n_items**2 / n_draws,
        n,
        n_draws,
    )


class CrossedDifference(NamedTuple):
    """A difference between two groups of units that were all asked the same items."""

    interval: Interval  # second minus first, with its interval; no bounds if nothing varies
    p: float  # two-sided p-value
    error_units: float  # standard error from the spread of units within their groups
    error_items: float  # standard error from the spread of items
    df: float  # degrees of freedom over units and items; nan if nothing varies


class _Error(NamedTuple):
    """A squared standard error, and its degrees of freedom."""

    squared: float
    df: float


def crossed_difference(
    first: Float[np.ndarray, " units"],
    second: Float[np.ndarray, " others"],
    error_items: float,
    n_items: int,
) -> CrossedDifference:
    """Difference of two groups' means where both their units and the items are samples."""
    # The squared standard error is that of Welch (1947, Biometrika 34) over units plus that over
    # items, with degrees of freedom after Satterthwaite (1946, Biometrics Bulletin 2). For two
    # groups this is min F' (Clark 1973, J. Verbal Learning and Verbal Behavior 12), which errs on
    # the safe side, as what units and items share is counted twice. Many items would lend it
    # degrees of freedom that few units do not have, so it is never surer than Welch's test alone.
    from scipy.stats import t

    units = _sum_errors(
        [_Error(float(np.var(v, ddof=1)) / len(v), len(v) - 1) for v in (first, second)]
    )
    both = _sum_errors([units, _Error(error_items**2, max(n_items - 1, 1))])
    difference = float(second.mean() - first.mean())
    known = [(np.sqrt(e.squared), e.df) for e in (units, both) if e.df > 0]
    p_values = [float(2 * t.sf(abs(difference) / error, df)) for error, df in known]
    p = max(p_values, default=float(abs(difference) < 1e-12))
    if not units.df > 0 and abs(difference) > 1e-12:
        p = max(p, 2 / comb(len(first) + len(second), len(first)))
    reach = [float(t.ppf(0.5 + _LEVEL / 2, df) * error) for error, df in known]
    half = max(reach, default=np.nan)
    interval = Interval(difference, difference - half, difference + half, _LEVEL)
    return CrossedDifference(interval, p, float(np.sqrt(units.squared)), error_items, both.df)


def _sum_errors(errors: list[_Error]) -> _Error:
    """Their sum, with Satterthwaite's degrees of freedom; nan where nothing varies."""
    total = sum(error.squared for error in errors)
    if total < 1e-24:
        return _Error(0.0, np.nan)
    below = sum(error.squared**2 / error.df for error in errors if error.squared > 0)
    return _Error(total, total**2 / below)
