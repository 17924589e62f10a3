"""A difference between groups of models that were asked the same items: both are samples.

Plain numbers in, plain numbers out; what is compared is not known here.
"""

from __future__ import annotations

from math import comb
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from layerwise.stats import Interval


class CrossedDifference(NamedTuple):
    """A difference between two groups of units that were all asked the same items.

    Attributes:
        interval: second minus first, with its interval; no bounds if nothing varies.
        p: two-sided p-value.
        error_units: standard error from the spread of units within their groups.
        error_items: standard error from the spread of items.
        df: degrees of freedom; nan if nothing varies.
    """

    interval: Interval
    p: float
    error_units: float
    error_items: float
    df: float


def crossed_difference(
    first: Float[np.ndarray, " units"],
    second: Float[np.ndarray, " others"],
    error_items: float,
    n_items: int,
    level: float = 0.95,
) -> CrossedDifference:
    """Difference of two groups' means where both their units and the items are samples.

    The squared standard error is that of Welch (1947, Biometrika 34) over units plus that over
    items, with degrees of freedom after Satterthwaite (1946, Biometrics Bulletin 2). For two
    groups this is min F' (Clark 1973, J. Verbal Learning and Verbal Behavior 12), which errs on
    the safe side, as what units and items share is counted twice. Without an error of items it
    is Welch's test.

    Args:
        first: one value per unit (a training seed, say), at least two.
        second: those of the other group.
        error_items: standard error, over items, of the difference of the groups' means.
        n_items: number of items.
        level: coverage aimed at.
    """
    from scipy.stats import t

    parts = [np.var(values, ddof=1) / len(values) for values in (first, second)]
    dfs = [len(first) - 1, len(second) - 1, max(n_items - 1, 1)]
    squared = [*parts, error_items**2]
    difference, error = float(second.mean() - first.mean()), float(np.sqrt(sum(squared)))
    units = float(np.sqrt(sum(parts)))
    if error <= 1e-12:  # nothing varies, so that only the units' order is left to go by
        least = 2 / comb(len(first) + len(second), len(first))
        p = 1.0 if abs(difference) <= 1e-12 else min(1.0, least)
        return CrossedDifference(
            Interval(difference, np.nan, np.nan, level), p, units, error_items, np.nan
        )
    df = sum(squared) ** 2 / sum(s**2 / d for s, d in zip(squared, dfs, strict=True))
    half = float(t.ppf(0.5 + level / 2, df)) * error
    p = float(2 * t.sf(abs(difference) / error, df))
    found = Interval(difference, difference - half, difference + half, level)
    return CrossedDifference(found, p, units, error_items, float(df))
