"""A difference between groups of models that were asked the same items: both are samples.

Plain numbers in, plain numbers out; what is compared is not known here.
"""

from __future__ import annotations

from math import comb
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.stats import t

from layerwise.stats import Interval

_LEVEL = 0.95


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

    @property
    def half_width(self) -> float:
        return float(t.ppf(0.5 + _LEVEL / 2, self.df) * np.sqrt(self.squared))

    def p(self, difference: float) -> float:
        return float(2 * t.sf(abs(difference) / np.sqrt(self.squared), self.df))


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
    units = _joined(
        [_Error(float(np.var(v, ddof=1)) / len(v), len(v) - 1) for v in (first, second)]
    )
    both = _joined([units, _Error(error_items**2, max(n_items - 1, 1))])
    difference, errors = float(second.mean() - first.mean()), [e for e in (units, both) if e.df > 0]
    p = max([error.p(difference) for error in errors], default=float(abs(difference) < 1e-12))
    if not units.df > 0 and abs(difference) > 1e-12:
        p = max(p, 2 / comb(len(first) + len(second), len(first)))
    half = max([error.half_width for error in errors], default=np.nan)
    interval = Interval(difference, difference - half, difference + half, _LEVEL)
    return CrossedDifference(interval, p, float(np.sqrt(units.squared)), error_items, both.df)


def _joined(errors: list[_Error]) -> _Error:
    """Their sum, with Satterthwaite's degrees of freedom; nan where nothing varies."""
    total = sum(error.squared for error in errors)
    if total < 1e-24:
        return _Error(0.0, np.nan)
    below = sum(error.squared**2 / error.df for error in errors if error.squared > 0)
    return _Error(total, total**2 / below)
