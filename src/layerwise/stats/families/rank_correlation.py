"""Intervals of rank correlations over layers, heads or cells, of means over items.

An interval is of what is ranked, of which items are a sample. That two rankings go together by more
than luck is tested over what is ranked, too.
"""

from __future__ import annotations

import math
from itertools import permutations
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from layerwise.stats.families.estimate import finite_or_none
from layerwise.stats.inference import percentile_bounds, rank_correlations, two_sided_p

# Orders of the columns that the test of independence draws; all there are, up to seven columns.
N_ORDERS = 9999
# Correlations that differ by less are the same one, summed in another order.
_SAME = 1e-9

Draws = Float[np.ndarray, "draws columns"]


class RankCorrelation(NamedTuple):
    """Spearman's correlation with bounds (95 %) and the p-value of "unrelated"."""

    # p is the larger of two: that items leave the correlation 0, and that rankings of no relation
    # agree as well. All are nan, and p is 1, where a ranking is constant; bounds are nan of a
    # single item.

    estimate: float
    low: float
    high: float
    p: float

    def columns(self, name: str, ends: str) -> dict[str, float | None]:
        """Its columns ``name``, and ``ends`` + low, high and p; null where there is no value."""
        low, high = finite_or_none(self.low), finite_or_none(self.high)
        columns = {name: finite_or_none(self.estimate), f"{ends}low": low, f"{ends}high": high}
        return columns | {f"{ends}p": self.p}


def rank_correlation(
    one: Draws,
    other: Draws,
    n: int,
    rng: np.random.Generator,
    *,
    sampled: tuple[bool, bool] = (True, True),
    least: float = 0.0,
) -> RankCorrelation:
    """Spearman's rank correlation over columns, with a smoothed bootstrap interval over items."""
    # Ranks jump, so a plain bootstrap fails twice. Columns that tie in every item tie in all
    # resamples, though their true means need not: each mean of a resample is moved by a normal
    # draw, whose standard deviation is what one item of n + 2 moves the whole range (Laplace's
    # rule; smoothed bootstrap: Silverman and Young 1987, Biometrika 74). And noise takes from a
    # correlation, in resamples twice, so the interval holds the percentiles and their reflection in
    # the estimate (Davison and Hinkley 1997, Bootstrap Methods and their Application, section 5.2).
    # With many items it excludes 0 for nearly any two rankings; so p is also ``unrelated_p``.
    estimate = float(rank_correlations(one[:1], other[:1])[0])
    if np.isnan(estimate):
        return RankCorrelation(np.nan, np.nan, np.nan, 1.0)
    if n < 2:
        return RankCorrelation(estimate, np.nan, np.nan, 1.0)
    moved = []
    for draws, drawn in zip((one, other), sampled, strict=True):
        noise = np.ptp(draws[0]) / (n + 2) * rng.standard_normal(draws[1:].shape) if drawn else 0.0
        moved.append(draws[1:] + noise)
    draws = rank_correlations(moved[0], moved[1])
    (low,), (high,) = percentile_bounds(draws[:, None], 0.95)
    lowest, highest = min(low, 2 * estimate - high), max(high, 2 * estimate - low)
    kept = draws[~np.isnan(draws)]
    of_items = max(two_sided_p(each, least) for each in (kept, 2 * estimate - kept))
    # a stream of its own, so that what is drawn next does not depend on this test
    p = max(of_items, unrelated_p(one[0], other[0], rng.spawn(1)[0]))
    return RankCorrelation(estimate, max(float(lowest), -1.0), min(float(highest), 1.0), p)


def unrelated_p(
    profile: Float[np.ndarray, " columns"],
    other: Float[np.ndarray, " columns"],
    rng: np.random.Generator,
) -> float:
    """Two-sided permutation p-value of "the rankings are unrelated"."""
    # The permutation test of Spearman's correlation (Pitman 1937, J. R. Stat. Soc. Suppl. 4): exact
    # up to seven columns, else of 9,999 random orders and the one that was seen.
    from scipy.stats import rankdata

    ranks = [rankdata(values) - (len(values) + 1) / 2 for values in (profile, other)]
    seen = abs(float(ranks[0] @ ranks[1]))
    n = len(ranks[0])
    if math.factorial(min(n, 10)) <= N_ORDERS:
        orders = np.array(list(permutations(range(n))))
        return float(np.mean(np.abs(ranks[0][orders] @ ranks[1]) >= seen - _SAME))
    shuffled = rng.permuted(np.tile(ranks[0], (N_ORDERS, 1)), axis=1)
    as_far = np.count_nonzero(np.abs(shuffled @ ranks[1]) >= seen - _SAME)
    return (as_far + 1) / (N_ORDERS + 1)
