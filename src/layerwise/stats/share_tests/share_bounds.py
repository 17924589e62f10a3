"""Bounds of the share lost where all items of a sample are alike, or nearly.

A bootstrap is too narrow there. The share is a ratio of two paired effects on the same items: the
loss by a change over the score above the floor. Both are bounded jointly.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int, Shaped

from layerwise.stats.families.estimate import (
    equal_value_bounds,
    exact_difference_bounds,
    independent_counts,
)
from layerwise.stats.inference import percentile_bounds
from layerwise.stats.items.clusters import Clusters

TAIL = 0.025
_NORMAL = 1.959963984540054  # of the normal distribution, 97.5 % lies below
# Percentiles of resamples that are all the same differ by rounding at most.
_ROUNDING = 1e-9
# How finely the share of unseen clusters, and the mean of what can be lost, are searched.
_STEPS, _MEANS, _SPREADS = 100, 65, 13


class Scale(NamedTuple):
    """Bounds of shares for samples in which all items have the same share."""

    n: float  # how many independent clusters there are, none of which is unlike the others
    # Clusters that are not like the sample, for each that is: a grid.
    odds: Float[np.ndarray, " grid"]
    # At each, the least mean of what can be lost of those that are like the sample; the more of the
    # error the unseen clusters use up, the larger.
    least: Float[np.ndarray, " grid"]
    # Of an item that is not like the sample, what it may lose and what it has to lose; all else
    # lies between these.
    corners: Float[np.ndarray, "corners 2"]
    # How far one of the clusters may move the share; infinite if there is nothing to lose.
    item: float

    def bounds(
        self, share: Float[np.ndarray, " rows"]
    ) -> tuple[Float[np.ndarray, " rows"], Float[np.ndarray, " rows"]]:
        """Lower and upper bounds (95 %) of shares that all items of the sample agree on."""
        lost, whole = (self.corners[:, i, None] * self.odds for i in (0, 1))
        whole = whole + self.least
        if not len(self.odds) or (whole <= 0).any():
            return np.full(len(share), -np.inf), np.full(len(share), np.inf)
        reached = (share[:, None, None] * self.least + lost) / whole
        low, high = reached.min(axis=(1, 2)), reached.max(axis=(1, 2))
        return np.minimum(low, share), np.maximum(high, share)

    def widest(self, other: Scale) -> Scale:
        """The wider of two scales."""
        one, two = (np.concatenate(each) for each in zip(self[1:3], other[1:3], strict=True))
        item = max(self.item, other.item)
        return Scale(min(self.n, other.n), one, two, self.corners, item)


def share_scale(
    above: Shaped[np.ndarray, " items"], clusters: Clusters, chance: float | None = None
) -> Scale:
    """Bounds that a sample leaves open of a share lost that is the same in all of its clusters."""
    # If a share p of all clusters is not like the sample's, none of n is seen with probability
    # (1 - p)^n. The others alone say what can be lost of the like of them, whose mean is at least d
    # at a level of their own. A pair (p, d) stands unless (1 - p)^n times the tail of what was
    # seen, given d, is at most 2.5 %; bounds are the extremes of (share d + odds x lost) /
    # (d + odds x whole) over these, with odds p / (1 - p) and any (lost, whole) of an item. Given
    # that the sample is all alike the tail is a p-value, so no level is split (two independent
    # events: Fisher 1925, Statistical Methods for Research Workers, section 21.1). The tail is that
    # of a sum of values -1, 0 and 1, at its largest over how often they are -1; binomial (Clopper
    # and Pearson 1934, Biometrika 26) where the floor is a stated chance.
    from scipy.special import betaincinv

    values = np.asarray(above, dtype=float)[:, None]
    floors = (0.0, 1.0) if chance is None else (chance,)
    corners = {(i - c, i - floor) for i in (0.0, 1.0) for c in (0.0, 1.0) for floor in floors}
    n = _effective_sample_size(np.zeros_like(values), clusters)
    unseen = np.linspace(0.0, 1 - TAIL ** (1 / n), _STEPS + 1)
    # each step goes with the level of the one before, which is the more careful
    tails = np.minimum(TAIL / (1 - unseen[:-1]) ** n, 1.0)
    worth = int(_effective_sample_size(values, clusters) + 1e-9)
    mean = float(values.mean())
    if worth < 1:
        least = np.full(len(tails), -np.inf)
    elif chance is None:
        least = _least_means(int(np.floor(mean * worth + 1e-9)), worth, tuple(tails.tolist()))
    else:
        hits = int(np.floor((mean + chance) * worth + 1e-9))
        rates = betaincinv(hits, worth - hits + 1, tails) if hits > 0 else np.zeros(len(tails))
        least = rates - chance
    item = 1 / (n * mean) if mean > 0 else np.inf
    return Scale(n, unseen[1:] / (1 - unseen[1:]), least, np.array(sorted(corners)), item)


def _effective_sample_size(values: Float[np.ndarray, "items 1"], clusters: Clusters) -> float:
    """Effective number of items; clusters count as copies of one item where no item differs."""
    # The design effect (Kish 1965, Survey Sampling, section 5.4) is that of this very sample: where
    # clusters are of one size and alike within, they are worth their number.
    n, away = len(values), values - values.mean()
    spread = float((away**2).sum())
    if clusters.are_items or clusters.n < 2:
        return float(clusters.n)
    if spread < 1e-12:
        return n**2 / float((clusters.sizes.astype(float) ** 2).sum())
    return n / max(1.0, float((clusters.sums(away) ** 2).sum()) / spread)


# All tables of a run ask of the same few samples.
@lru_cache(maxsize=512)
def _least_means(total: int, n: int, tails: tuple[float, ...]) -> Float[np.ndarray, " grid"]:
    """The least mean of n values -1, 0, 1 whose sum is ``total`` or more in so many samples."""
    lowest, highest = (total / n + far / n**0.5 for far in (-6.0, 4.0))
    means = np.linspace(max(lowest, -1.0), min(highest, 1.0), _MEANS)
    reached = np.maximum.accumulate(_sum_tails(total, n, means))
    # the mean before the first that is reached often enough
    place = np.searchsorted(reached, np.asarray(tails), side="right") - 1
    return np.where(place >= 0, means[np.maximum(place, 0)], -1.0)


def _sum_tails(
    total: int, n: int, means: Float[np.ndarray, " means"]
) -> Float[np.ndarray, " means"]:
    """Bound on how often the sum is ``total`` or more, over how often the values are -1."""
    from scipy.special import bdtrc
    from scipy.stats import binom

    minus = (1 - means[:, None]) / 2 * np.linspace(0.0, 1.0, _SPREADS) ** 2
    minus = np.maximum(minus, -means[:, None])
    plus = means[:, None] + minus
    other = np.arange(n + 1)  # values that are not 0
    needed = np.maximum(-(-(other + total) // 2), 0)  # of these, so many 1
    moved = np.clip(plus + minus, 0.0, 1.0)
    part = np.clip(plus / np.where(moved > 0, moved, 1.0), 0.0, 1.0)[..., None]
    tail = np.where(needed > 0, bdtrc(np.minimum(needed - 1.0, other), other, part), 1.0)
    tail = np.where(needed > other, 0.0, tail)
    return (binom.pmf(other, n, moved[..., None]) * tail).sum(axis=-1).max(axis=1)


def with_unseen_items(effects: pd.DataFrame, scale: Scale) -> dict[str, Float[np.ndarray, " rows"]]:
    """Bounds of accuracies and shares, widened for items that a sample would not show."""
    # Where no answer changed, or all did, or each is as without any layer, a bootstrap has no
    # width: in the sample there is nothing to draw. Where one answer was gained and none lost, it
    # has none to one side. What the sample leaves open is then told by exact bounds: of accuracies
    # without width, of the answers that might have changed; of others, of items that might lose or
    # gain one; of a share, jointly with what can be lost.
    lost, gained, n = independent_counts(effects)
    names = ("acc_diff", "acc_diff_low", "acc_diff_high", "share_lost", "share_low", "share_high")
    diff, low, high, share, *ends = (effects[name].to_numpy(dtype=float) for name in names)
    fixed = low == high
    exact = np.where(
        fixed,
        exact_difference_bounds(lost, gained, n),
        equal_value_bounds(diff, np.full(len(diff), scale.n), 1.0),
    )
    joint = wide_enough((ends[0], ends[1]), share[None], [scale])
    bounds = (
        *no_narrower((low, high), (exact[0], exact[1])),
        *(np.where(np.isfinite(end), end, np.nan) for end in joint),
    )
    return dict(zip((*names[1:3], *names[4:]), bounds, strict=True))


def no_narrower(
    bounds: tuple[Float[np.ndarray, " rows"], Float[np.ndarray, " rows"]],
    least: tuple[Float[np.ndarray, " rows"], Float[np.ndarray, " rows"]],
) -> tuple[Float[np.ndarray, " rows"], Float[np.ndarray, " rows"]]:
    """Bounds, or others where these are further out; nan where there are none."""
    low, high = bounds
    return (
        np.where(np.isnan(low), low, np.fmin(low, least[0])),
        np.where(np.isnan(high), high, np.fmax(high, least[1])),
    )


def without_width(
    low: Float[np.ndarray, " *rows"], high: Float[np.ndarray, " *rows"]
) -> Bool[np.ndarray, " *rows"]:
    """True if all resamples agree up to rounding."""
    with np.errstate(invalid="ignore"):
        return high - low <= _ROUNDING


def wide_enough(
    bounds: tuple[Float[np.ndarray, " rows"], Float[np.ndarray, " rows"]],
    shares: Float[np.ndarray, "tasks rows"],
    scales: Sequence[Scale],
) -> tuple[Float[np.ndarray, " rows"], Float[np.ndarray, " rows"]]:
    """Percentile bounds of a mean share over tasks, no narrower than unseen items allow."""
    each = [scale.bounds(of_task) for scale, of_task in zip(scales, shares, strict=True)]
    low, high = (np.mean([bounds[end] for bounds in each], axis=0) for end in (0, 1))
    replaced = without_width(*bounds) | (np.isfinite(low) & np.isfinite(high))
    return (
        np.where(replaced, np.minimum(bounds[0], low), bounds[0]),
        np.where(replaced, np.maximum(bounds[1], high), bounds[1]),
    )


class ShareBounds(NamedTuple):
    """A share's own bounds."""

    # Lower bounds, no narrower than unseen items allow; not finite where there are none.
    low: Float[np.ndarray, " rows"]
    high: Float[np.ndarray, " rows"]  # upper bounds
    answer: float | Float[np.ndarray, " rows"]  # how far a single answer of the sample moves it


def difference_wide_enough(
    difference: Float[np.ndarray, " rows"],
    bounds: tuple[Float[np.ndarray, " rows"], Float[np.ndarray, " rows"]],
    first: ShareBounds,
    second: ShareBounds,
) -> tuple[Float[np.ndarray, " rows"], Float[np.ndarray, " rows"]]:
    """Bounds of a difference of shares, no narrower than an answer on either side allows."""
    # Where few answers flip for nothing, a sample may show none of them on one side, and what its
    # resamples spread is too little. How many flip is known to no better than one, so no standard
    # error is smaller than that of one answer on either side. Where all resamples have the same
    # difference, the bounds of both are as far apart as they can be.
    same = without_width(*bounds)
    reach = _NORMAL * np.hypot(first.answer, second.answer)
    reach = np.where(np.isfinite(reach), reach, 0.0)
    least = difference - reach, difference + reach
    low, high = no_narrower(bounds, least)
    return (
        np.where(same, first.low - second.high, low),
        np.where(same, first.high - second.low, high),
    )


def one_answer_change(
    scales: Sequence[Scale], n_changes: int | Int[np.ndarray, " rows"] = 1
) -> float | Float[np.ndarray, " rows"]:
    """Change of a mean share over tasks if one item of each task flips."""
    return float(np.mean([scale.item for scale in scales])) / n_changes


def bound_share(
    draws: Float[np.ndarray, "draws rows"], scale: Scale, n_changes: int = 1
) -> ShareBounds:
    """A share of one task with bounds of its own."""
    ends = wide_enough(percentile_bounds(draws[1:], 0.95), draws[:1], [scale])
    return ShareBounds(*ends, one_answer_change([scale], n_changes))
