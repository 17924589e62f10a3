"""Joint bounds of shares of samples that are all alike: how often they miss, and how wide they are.

Probabilities are summed over all samples, without drawing any, where a sample is told by its
counts; what a whole table says is simulated.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import pytest
from scipy.stats import beta, multinomial

from layerwise import stats
from layerwise.stats.items.clusters import Clusters
from layerwise.stats.share_tests.share_bounds import (
    Scale,
    ShareBounds,
    difference_wide_enough,
    share_scale,
    wide_enough,
)
from tests.cases import LONG, data_sets

SIDE = 0.025


def all_samples(n: int) -> np.ndarray:
    """All samples of ``n`` items whose values are 1, 0 or -1, as counts."""
    return np.array([(plus, n - plus - minus, minus)
                     for plus in range(n + 1) for minus in range(n + 1 - plus)])  # fmt: skip


def scale_of_counts(counts: np.ndarray) -> Scale:
    above = np.repeat([1, 0, -1], counts)
    return share_scale(above, Clusters.singletons(len(above)))


@pytest.mark.parametrize("n", [8, 24, pytest.param(50, marks=pytest.mark.long)])
def test_no_truth_is_missed_on_either_side_more_often_than_stated(n: int) -> None:
    """Samples in which nothing is lost, or all that can be: the worst of some 400 truths."""
    every = all_samples(n)
    bounds = [scale_of_counts(one).bounds(np.array([0.0, 1.0])) for one in every]
    low, high = np.stack(bounds).transpose(1, 2, 0)  # by share of the sample
    misses, corners = [], ((1, 0), (1, 1), (-1, 0), (-1, -1), (0, 1), (0, -1))
    for odd, accuracy, floor, (lost, whole) in product(
        (0.005, 0.02, 0.05, 0.1, 0.2, 0.3), (0.2, 0.5, 0.8, 1.0), (0.0, 0.05, 0.2), corners
    ):
        # what items that are like the sample have to lose
        chances = np.array([accuracy * (1 - floor), 0.0, (1 - accuracy) * floor])
        chances[1] = 1 - chances.sum()
        like = (1 - odd) * (chances[0] - chances[2])
        above = like + odd * whole
        if above > 1e-9:
            seen = multinomial.pmf(every, n, chances) * (1 - odd) ** n
            for row, share in enumerate((odd * lost / above, (like + odd * lost) / above)):
                misses += [seen[high[row] < share - 1e-12].sum()]
                misses += [seen[low[row] > share + 1e-12].sum()]
    assert max(misses) <= SIDE
    # nor is that for want of samples that are all alike
    assert max(misses) > SIDE / 10


def test_bounds_are_those_of_unseen_items_where_all_have_all_to_lose() -> None:
    """Then a mean of 1 stands as it is, and at most the share that Clopper and Pearson leave."""
    for n in (10, 24, 100):
        scale = scale_of_counts(np.array([n, 0, 0]))
        unseen = float(beta.isf(SIDE, 1, n))
        (low,), (high,) = scale.bounds(np.zeros(1))
        assert unseen / (1 - unseen) <= high <= 1.1 * unseen / (1 - unseen)
        assert low <= -high
        (low,), (high,) = scale.bounds(np.ones(1))
        assert 1 - 1.1 * unseen / (1 - unseen) <= low <= 1 - unseen
        assert high >= 1 + unseen


def test_least_means_are_those_of_all_samples_counted_one_by_one() -> None:
    """A mean below the least would have a sum as large in too few samples, however it spreads."""
    n, seen = 9, np.array([7, 1, 1])
    every, total = all_samples(n), seen[0] - seen[2]
    scale = scale_of_counts(seen)
    reached = every[:, 0] - every[:, 2] >= total
    odds = np.concatenate([[0.0], scale.odds[:-1]])
    for least, odd in list(zip(scale.least, odds, strict=True))[::11]:
        level = min(SIDE * (1 + odd) ** n, 1.0)
        tails = []
        for minus in np.linspace(0.0, (1 - least) / 2, 40):
            chances = np.array([least + minus, 0.0, minus])
            chances[1] = 1 - chances.sum()
            tails.append(multinomial.pmf(every, n, np.clip(chances, 0, 1))[reached].sum())
        assert max(tails) <= level + 0.005
        assert least > -1.0


def test_facts_asked_twice_leave_as_much_open_as_facts_asked_once() -> None:
    labels = [f"fact {i:02}" for i in range(20)]
    above = np.array(15 * [1] + 5 * [0])
    once = share_scale(above, Clusters.from_labels(labels)).bounds(np.zeros(1))
    twice = share_scale(np.repeat(above, 2), Clusters.from_labels(sorted(2 * labels))).bounds(
        np.zeros(1)
    )
    apart = share_scale(np.repeat(above, 2), Clusters.singletons(40)).bounds(np.zeros(1))
    # what they are worth is estimated, so that quantiles are somewhat wider
    assert once[1] <= twice[1] <= 1.3 * once[1]
    assert apart[1] < 0.7 * once[1]


def test_a_share_of_nothing_has_no_end() -> None:
    for above in (np.array(12 * [1] + 12 * [0] + 10 * [-1]), np.zeros(5), np.ones(1)):
        low, high = share_scale(above, Clusters.singletons(len(above))).bounds(np.array([0.0, 1.0]))
        assert np.isneginf(low).all()
        assert np.isposinf(high).all()


def test_stated_chance_is_what_a_broken_model_gets_right() -> None:
    """24 right answers above a quarter: an item that is lost had 3/4 to lose."""
    (low,), (high,) = share_scale(np.full(24, 0.75), Clusters.singletons(24), 0.25).bounds(
        np.zeros(1)
    )
    unseen = float(beta.isf(SIDE, 1, 24))
    assert unseen / 0.75 <= high < 1.2 * unseen / 0.75
    assert low < -high


CHANGES = 10
SHARES, ODD = (0.0, 0.5, 1.0, 1.25), (0.0, 0.02, 0.05, 0.2)
Truth = tuple[int, float, float, float, float]
GRID = [
    cell
    for cell in product((24, 50, 100), (0.6, 0.8, 1.0), (0.0, 0.2), SHARES, ODD)
    if cell[2] or cell[3] <= 1  # fewer right than none there are not
]


def answers(rng: np.random.Generator, cell: Truth) -> tuple[np.ndarray, np.ndarray, float]:
    """Ten changes that cost the same share of what there is to lose, and that share.

    0: no answer changes; 1: all are as without layers; 1/2: each as one or the other; 5/4: some are
    wrong that would be right without layers. Of a part of the items, ``odd``, any answer comes out.

    Returns:
        Answers of the intact model and without layers; of the changes; and the share.
    """
    n, accuracy, floor, share, odd = cell
    intact, none = (rng.random((n, 1)) < level for level in (accuracy, floor))
    either = rng.random((n, CHANGES))
    worse = 0.25 * (accuracy - floor) / max(floor, 1e-9)
    ways = {0.0: intact, 0.5: np.where(either < 0.5, intact, none), 1.0: none,
            1.25: none & (either >= worse)}  # fmt: skip
    strange = rng.random((n, CHANGES)) < odd
    changed = np.where(strange, rng.random((n, CHANGES)) < 0.5, ways[share])
    left = (1 - odd) * (accuracy - share * (accuracy - floor)) + odd * 0.5
    return np.concatenate([intact, none], axis=1), changed, (accuracy - left) / (accuracy - floor)


@pytest.mark.long
def test_shares_cover_whether_or_not_all_items_are_alike() -> None:
    """24 to 100 items; resamples, and what unseen items leave open."""
    rng, missed, n_sets = np.random.default_rng(0), {}, data_sets(80)
    for cell in GRID if LONG else GRID[::18]:
        drawn = stats.resample_counts(stats.resample_indices(cell[0], 2000, rng))
        missed[cell] = 0
        for _ in range(n_sets):
            whole, changed, truth = answers(rng, cell)
            means = drawn @ np.concatenate([whole, changed], axis=1) / cell[0]
            shares = stats.shares(means[:, :1], means[:, 2:], means[:, 1:2])
            above = whole[:, 0].astype(float) - whole[:, 1]
            if above.mean() <= 0:
                continue
            lost = (whole[:, :1] - changed.astype(float)).mean(axis=0, keepdims=True)
            scale = share_scale(above, Clusters.singletons(cell[0]))
            ends = stats.percentile_bounds(shares, 0.95)
            low, high = wide_enough(ends, lost / above.mean(), [scale])
            missed[cell] += np.count_nonzero((low > truth + 1e-9) | (high < truth - 1e-9))
    rates = np.array(list(missed.values())) / (n_sets * CHANGES)
    assert rates.max() <= 0.1
    assert rates.mean() <= 0.05


# Accuracy and floor on either side, shares on either side, items of which any answer comes out.
SIDES = [((0.8, 0.2), (0.8, 0.2)), ((1.0, 0.0), (1.0, 0.0)), ((0.8, 0.0), (0.6, 0.2)),
         ((1.0, 0.2), (0.6, 0.0))]  # fmt: skip
PAIRS = list(product(
    (True, False), (24, 50, 100), SIDES,
    ((0.0, 0.0), (1.0, 1.0), (0.5, 0.5), (0.0, 1.0), (0.5, 1.0)), ODD,
))  # fmt: skip


def two_shares(rng: np.random.Generator, cell: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    """Answers as above, twice of the same items; those that are alike both times, or not."""
    alike, n, sides, shares, odd = cell
    state = rng.bit_generator.state
    for (accuracy, floor), share in zip(sides, shares, strict=True):
        if alike:
            rng.bit_generator.state = state
        yield answers(rng, (n, accuracy, floor, share, odd))


@pytest.mark.long
def test_differences_of_shares_cover() -> None:
    """By percentiles of the difference alone a third is missed of items of which few flip."""
    rng, n_sets = np.random.default_rng(1), data_sets(60)
    missed, alone = {}, {}
    for cell in PAIRS if LONG else PAIRS[5::37]:
        n = cell[1]
        drawn = stats.resample_counts(stats.resample_indices(n, 2000, rng))
        missed[cell], alone[cell] = [], []
        for _ in range(n_sets):
            own, draws, truths = [], [], []
            for whole, changed, truth in two_shares(rng, cell):
                above = whole[:, 0].astype(float) - whole[:, 1]
                if above.mean() <= 0:
                    break
                means = drawn @ np.concatenate([whole, changed], axis=1) / n
                shares = stats.shares(means[:, :1], means[:, 2:], means[:, 1:2])
                lost = (whole[:, :1] - changed.astype(float)).mean(axis=0) / above.mean()
                scale = share_scale(above, Clusters.singletons(n))
                ends = wide_enough(stats.percentile_bounds(shares, 0.95), lost[None], [scale])
                own.append(ShareBounds(*ends, scale.item))
                draws.append(np.concatenate([lost[None], shares]))
                truths.append(truth)
            else:
                apart = draws[0] - draws[1]
                ends = stats.percentile_bounds(apart[1:], 0.95)
                truth = truths[0] - truths[1]
                # without what an answer allows
                plain = [one._replace(answer=0.0) for one in own]
                for kept, of_both in ((missed, own), (alone, plain)):
                    below, above = difference_wide_enough(apart[0], ends, *of_both)
                    kept[cell] += ((below > truth + 1e-9) | (above < truth - 1e-9)).tolist()
    rates, percentiles = (
        np.array([np.mean(one) for one in kept.values()]) for kept in (missed, alone)
    )
    assert rates.mean() <= 0.03
    assert rates.max() <= 0.1
    if LONG:
        assert percentiles.mean() > 0.04
        assert percentiles.max() > 0.3
