"""Confidence sets of depths, and tests that two depths are the same, by inverting a test.

At each place x of the layers a contrast says whether more of the effect lies before x than after
it. It is linear in what the layers add, so it is a mean over items of one number for each item,
whatever the size of the effect: no ratio, no clipping, no resampling. The confidence set of a
depth are all places whose contrast is not significant (Fieller 1954, J. R. Stat. Soc. B 16;
Lehmann and Romano 2005, Testing Statistical Hypotheses, section 3.5).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import ndtr, ndtri, stdtrit

from layerwise.stats.items.clusters import Clusters
from layerwise.stats.share_tests.equivalence import SMALLEST_DEPTH as SMALLEST_DEPTH
from layerwise.stats.share_tests.equivalence import refuse_negative_depth as refuse_negative_depth
from layerwise.stats.share_tests.joint_null import (
    Difference,
    critical_distance,
    nearest_to_zero,
    z_values,
)
from layerwise.stats.share_tests.joint_null import mixture_p as mixture_p

from .item_curves import ItemCurves

HALF, CENTRE = "half-effect depth", "centre of mass"

# Of the whole effect: what is nothing in one curve, and what two curves may differ by that were
# computed in other ways, for engines and float32 agree to less.
NOTHING, ROUNDING = 1e-9, 1e-4
# How seldom a sample shows none of the items that bounds have to allow for.
_UNSEEN = 0.025
Draws = Float[np.ndarray, " places"]
_LEVEL = 0.95  # of confidence sets
# Places per layer at which contrasts are computed, besides those where they are 0.
_PLACES = 8
# Between two of these an end of an interval is searched by so many halvings, so many at once.
_HALVINGS, _AT_ONCE = 30, 5


class Axis(NamedTuple):
    """Maps places in layers to depths: (place + shift) / unit."""

    n_layers: int
    shift: float
    unit: float

    def depth(self, places: np.ndarray) -> np.ndarray:
        """Depth of places, which may lie half a layer beyond the first and the last."""
        return (places + self.shift) / self.unit

    def clip_depths(self, depths: np.ndarray) -> np.ndarray:
        """Depths, none before the first layer or behind the last."""
        ends = self.depth(np.array([0.0, self.n_layers - 1.0]))
        return np.clip(depths, *ends)

    def places(self, depths: np.ndarray) -> np.ndarray:
        """The reverse of ``depth``."""
        return depths * self.unit - self.shift


def is_established(row: Mapping[str, Any], p: float, smallest: float) -> bool:
    """True if a difference of depth is claimed: significant, and large enough to matter."""
    low, high, difference = row["low"], row["high"], row["difference"]
    away = min(low, difference) > 0 or max(high, difference) < 0
    return bool(p < 1 - _LEVEL and away and abs(difference) > smallest - 1e-9)


def contrast_knots(
    measure: str, values: Float[np.ndarray, "rows edges"]
) -> tuple[Draws, np.ndarray]:
    """Places between which a contrast is linear, and the contrast of each row there."""
    n_layers = values.shape[1] - 1
    if measure == HALF:
        return np.arange(n_layers + 1) - 0.5, 2 * values - values[:, -1:]
    added, layers = np.diff(values, axis=1), np.arange(n_layers, dtype=float)
    return layers, added.sum(axis=1, keepdims=True) * layers - (added @ layers)[:, None]


def interpolate_contrasts(
    measure: str, values: Float[np.ndarray, "rows edges"], places: Draws
) -> Float[np.ndarray, "rows places"]:
    """The contrast of each row at places in layers; 0 is the middle of the first one."""
    knots, at_knots = contrast_knots(measure, values)
    before = np.clip(np.floor(places - knots[0]).astype(int), 0, len(knots) - 2)
    part = places - knots[before]
    return at_knots[:, before] * (1 - part) + at_knots[:, before + 1] * part


def unseen_error(task: ItemCurves, measure: str, places: Draws) -> Draws:
    """Least standard error of a contrast: what items that the sample would not show may turn."""
    # Items that have their effect alike, or nearly, have no spread to speak of, and a depth would
    # be known without any doubt. But a share of the other items that such a sample would not show
    # with 97.5 % (Clopper and Pearson 1934, Biometrika 26, none of n) may have their whole effect
    # in the first or in the last layer. The error is such that a contrast which that could turn is
    # just not significant by itself. Items that count for little are few: n is the effective number
    # of their weights (Kish 1965, Survey Sampling, section 11.7).
    values = task.values / float(task.scale.mean())
    curve = values.mean(axis=0)
    weights = np.abs(task.item_clusters.sums(values[:, -1]))
    if curve[-1] <= NOTHING:
        return np.zeros(len(places))
    n = weights.sum() ** 2 / (weights**2).sum()
    edges = np.arange(task.n_layers + 1)
    ends = np.stack([curve, edges > 0, edges == task.n_layers]).astype(float)
    share, first, last = interpolate_contrasts(measure, ends, places)
    unseen = 1 - _UNSEEN ** (1 / n)
    reach = unseen * np.abs(share - np.where(share > 0, last, first))
    return reach / -stdtrit(task.item_clusters.n - 1.0, _UNSEEN)


class _Contrast(NamedTuple):
    """Contrasts of one capability at some places."""

    z: Draws  # as standard normal values; negative where more lies behind a place than before it
    error: Draws  # standard errors
    # Of each task, each cluster's deviation, so scaled that their products sum to covariances of
    # the contrasts.
    parts: tuple[Float[np.ndarray, "items places"], ...]


def depth_bounds(group: Sequence[ItemCurves], measure: str) -> tuple[float, float]:
    """First and last place whose contrast is not significant, in layers."""
    # The whole range where too little is known, and places that are not in the set may lie between.
    n_layers = group[0].n_layers
    if not _is_comparable(group):
        return np.nan, np.nan
    if n_layers < 2:
        return 0.0, 0.0
    limit = -float(ndtri((1 - _LEVEL) / 2))
    places = _places(group, measure)
    z = _contrast(group, measure, places).z
    accepted = np.flatnonzero(np.abs(z) <= limit)
    if not len(accepted):  # gains at one end may put a centre of mass beyond all layers
        accepted = np.array([len(places) - 1 if z[0] < 0 else 0])
    ends = []
    for edge, step in ((accepted[0], -1), (accepted[-1], 1)):
        inside, beyond = float(places[edge]), edge + step
        if 0 <= beyond < len(places):
            inside = _boundary(group, measure, inside, float(places[beyond]), limit)
        ends.append(round(float(np.clip(inside, 0.0, n_layers - 1)), 6))
    return ends[0], ends[1]


def depth_p_value(group: Sequence[ItemCurves], measure: str, place: float) -> float:
    """Two-sided p-value of "the depth is here"."""
    if not _is_comparable(group):
        return 1.0
    return float(2 * ndtr(-abs(_contrast(group, measure, np.array([place])).z[0])))


def same_depth_p_value(
    first: Sequence[ItemCurves],
    second: Sequence[ItemCurves],
    axes: tuple[Axis, Axis],
    *,
    paired: bool,
    measure: str = HALF,
) -> float:
    """p-value of "both depths are the same"."""
    # If both are d, the two contrasts at d have mean 0. The statistic is the least, over all d, of
    # their squared length (in standard errors, with their covariance), so it is at most that at the
    # true d. Where both contrasts change in proportion it is chi-squared with 1 degree of freedom;
    # at worst one changes only before d and the other only behind it, as ``mixture_p`` has it.
    if not (_is_comparable(first) and _is_comparable(second)):
        return 1.0
    contrasts, _ = _paired_contrasts((first, second), axes, measure)
    shared = _correlation((first, second), contrasts, paired, diagonal=True)
    return mixture_p(nearest_to_zero(contrasts[0].z, contrasts[1].z, shared))


def depth_difference(
    first: Sequence[ItemCurves],
    second: Sequence[ItemCurves],
    axes: tuple[Axis, Axis],
    *,
    paired: bool,
    measure: str = HALF,
    least: float = 0.0,
) -> Difference:
    """Second depth minus the first: all differences that are not rejected."""
    # A difference is rejected if no two depths that far apart are accepted together, by the
    # statistic and the critical value of ``same_depth_p_value``, whose p it comes with.
    if not (_is_comparable(first) and _is_comparable(second)):
        return Difference(np.nan, np.nan, 1.0)
    p = max(least, same_depth_p_value(first, second, axes, paired=paired, measure=measure))
    contrasts, depths = _paired_contrasts((first, second), axes, measure)
    shared = _correlation((first, second), contrasts, paired)
    z = contrasts[0].z[:, None], contrasts[1].z[None]
    length = (z[0] ** 2 - 2 * shared * z[0] * z[1] + z[1] ** 2) / (1 - shared**2)
    accepted = length <= critical_distance(1 - _LEVEL)
    shift = axes[1].clip_depths(depths)[None] - axes[0].clip_depths(depths)[:, None]
    shifts = shift[accepted if accepted.any() else length == length.min()]
    if p >= 1 - _LEVEL:
        shifts = np.append(shifts, 0.0)
    return Difference(float(shifts.min()), float(shifts.max()), p)


def _paired_contrasts(
    groups: tuple[Sequence[ItemCurves], Sequence[ItemCurves]],
    axes: tuple[Axis, Axis],
    measure: str,
) -> tuple[tuple[_Contrast, _Contrast], Draws]:
    """The contrasts of both at the same depths."""
    own = [axis.depth(_places(group, measure)) for axis, group in zip(axes, groups, strict=True)]
    depths = np.unique(np.round(np.concatenate(own), 12))
    start, end = max(d[0] for d in own), min(d[-1] for d in own)
    depths = depths[(depths >= start - 1e-9) & (depths <= end + 1e-9)]
    one, other = (
        _contrast(group, measure, axis.places(depths), ROUNDING)
        for axis, group in zip(axes, groups, strict=True)
    )
    return (one, other), depths


def _is_comparable(group: Sequence[ItemCurves]) -> bool:
    """True if every task has enough clusters for a variance, and a unit."""
    return all(task.item_clusters.n > 1 and task.scale.mean() > 0 for task in group)


def _places(group: Sequence[ItemCurves], measure: str) -> Draws:
    """A grid over all layers, and the places where the mean contrast is 0."""
    # Where all items are alike what is accepted may be narrower than the grid, which is finer
    # there.
    means = [task.values.mean(axis=0) / task.scale.mean() for task in group]
    knots, (mean,) = contrast_knots(measure, np.mean(means, axis=0)[None])
    before, after = mean[:-1], mean[1:]
    turns = np.flatnonzero(before * after < 0)
    zeros = knots[turns] + before[turns] / (before[turns] - after[turns])
    grid = np.linspace(knots[0], knots[-1], _PLACES * (len(knots) - 1) + 1)
    if len(zeros) and any(unseen_error(task, measure, zeros).any() for task in group):
        near = zeros[:, None] + np.linspace(-1, 1, 2 * _PLACES + 1) / _PLACES
        zeros = np.unique(np.clip(near, knots[0], knots[-1]))
    return np.unique(np.concatenate([grid, zeros]))


def _contrast(
    group: Sequence[ItemCurves], measure: str, places: Draws, rounding: float = NOTHING
) -> _Contrast:
    """The mean contrast over tasks, as a t-statistic over items."""
    # Each task is divided by its scale, which is estimated too: the deviation of an item takes off
    # what its scale explains of the task's departure from the mean of all tasks, as the null of the
    # mean says nothing of single tasks. Means below the rounding are nothing, and no error is.
    values = [interpolate_contrasts(measure, task.values, places) for task in group]
    units = [float(task.scale.mean()) for task in group]
    shares = np.array([v.mean(axis=0) / u for v, u in zip(values, units, strict=True)])
    mean = shares.mean(axis=0)
    parts, squared, freedom = [], np.zeros(len(places)), np.zeros(len(places))
    for task, value, unit, share in zip(group, values, units, shares, strict=True):
        items, n = len(value), task.item_clusters.n
        deviation = (value - (share - mean) * task.scale[:, None]) / unit
        # the variance of a mean over items from its clusters' sums; of single items, the usual
        away = task.item_clusters.sums(deviation - deviation.mean(axis=0))
        part = away / np.sqrt(items * items * (n - 1) / n) / len(group)
        seldom = (
            np.abs(interpolate_contrasts(measure, task.unseen, places)).max(axis=0)
            / unit
            / len(group)
        )
        error = np.maximum((part**2).sum(axis=0), seldom**2 / n)
        error = np.maximum(error, (unseen_error(task, measure, places) / len(group)) ** 2)
        parts.append(part)
        squared += error
        freedom += error**2 / (n - 1)
    squared, freedom = _add_shared_clusters(
        [task.item_clusters for task in group], parts, squared, freedom
    )
    known = squared > 1e-24
    df = np.where(known, squared**2 / np.where(known, freedom, 1.0), 1.0)
    away = np.where(np.abs(mean) < rounding, 0.0, mean)
    error = np.sqrt(np.maximum(squared, np.where(known, rounding**2, 0.0)))
    return _Contrast(z_values(away, error, df), error, tuple(parts))


def _add_shared_clusters(
    grouped: Sequence[Clusters], parts: Sequence[np.ndarray], squared: Draws, freedom: Draws
) -> tuple[Draws, Draws]:
    """The squared error, and its square per degree of freedom, of tasks that share clusters."""
    # Tasks that ask for the same thing are no independent samples: twice the products of their
    # deviations is added by cluster, where that is more, and there are no more degrees of freedom
    # than clusters.
    shared, some = np.zeros(len(squared)), False
    for (own, part), (other, others) in combinations(zip(grouped, parts, strict=True), 2):
        rows, other_rows = own.shared_rows(other)
        some |= bool(rows)
        shared += 2 * (part[rows] * others[other_rows]).sum(axis=0)
    if not some:
        return squared, freedom
    total = squared + np.maximum(shared, 0.0)
    most = max(Clusters.concatenate(grouped).n - len(grouped), 1)
    ratio = total / np.where(squared > 0, squared, 1.0)
    return total, np.maximum(freedom * ratio**2, total**2 / most)


def _boundary(
    group: Sequence[ItemCurves], measure: str, inside: float, outside: float, limit: float
) -> float:
    """Place between two others at which the contrast becomes significant, by bisection."""
    # The contrasts that some halvings may ask for are computed at once: what it takes to compute
    # one hardly grows with the number of places.
    for _ in range(0, _HALVINGS, _AT_ONCE):
        places = np.linspace(inside, outside, 2**_AT_ONCE + 1)
        accepted = np.abs(_contrast(group, measure, places).z) <= limit
        first, last = 0, 2**_AT_ONCE
        while last - first > 1:
            middle = (first + last) // 2
            first, last = (middle, last) if accepted[middle] else (first, middle)
        inside, outside = float(places[first]), float(places[last])
    return inside


def _correlation(
    groups: tuple[Sequence[ItemCurves], Sequence[ItemCurves]],
    contrasts: tuple[_Contrast, _Contrast],
    paired: bool,
    *,
    diagonal: bool = False,
) -> Float[np.ndarray, "*places"]:
    """Correlations of all pairs of contrasts, or of those at the same depth."""
    # From deviations of the same clusters in both: of all, or of those that ask for the same thing.
    first, second = contrasts
    if paired:
        pairs = list(zip(first.parts, second.parts, strict=True))
    else:
        pairs = []
        for task, part in zip(groups[0], first.parts, strict=True):
            for twin, twins in zip(groups[1], second.parts, strict=True):
                rows, other_rows = task.item_clusters.shared_rows(twin.item_clusters)
                if rows:
                    pairs.append((part[rows], twins[other_rows]))
    sizes = first.error * second.error if diagonal else first.error[:, None] * second.error[None]
    if not pairs:
        return np.zeros(sizes.shape)
    way = "ij,ij->j" if diagonal else "ij,ik->jk"
    shared = np.sum([np.einsum(way, a, b, optimize=True) for a, b in pairs], axis=0)
    known = sizes > 1e-24
    return np.clip(np.where(known, shared / np.where(known, sizes, 1.0), 0.0), -0.999, 0.999)
