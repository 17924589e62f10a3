"""Contrasts of layers agree with outside values of their estimates, errors and tests."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ttest_1samp, ttest_rel

from analyses.validity.published_claims import flat, made_up_cells, worlds
from layerwise.stats.contrasts import (
    Contrast,
    at_least_p_value,
    centre_contrast,
    layer_weights,
    mean_contrast,
    share_contrast,
    unpaired_difference,
)
from layerwise.stats.items.clusters import Clusters
from layerwise.stats.pools import pool_cells


def test_a_mean_contrast_is_students_test():
    values = np.random.default_rng(0).normal(0.3, 1, 40)
    contrast = mean_contrast(values, Clusters.singletons(40))
    outside = ttest_1samp(values, 0.1)
    assert contrast.estimate == pytest.approx(values.mean())
    assert contrast.error == pytest.approx(values.std(ddof=1) / np.sqrt(40))
    assert contrast.p_above(0.1) == pytest.approx(outside.pvalue / 2)
    assert contrast.p_below(0.1) == pytest.approx(1 - outside.pvalue / 2)
    assert contrast.bounds() == pytest.approx(tuple(outside.confidence_interval()), abs=0.11)


def test_bounds_are_those_of_scipy():
    values = np.random.default_rng(1).normal(0.3, 1, 25)
    low, high = mean_contrast(values, Clusters.singletons(25)).bounds()
    assert (low, high) == pytest.approx(tuple(ttest_1samp(values, 0).confidence_interval()))


def test_a_difference_of_contrasts_is_paired_by_item():
    rng = np.random.default_rng(2)
    first = rng.normal(size=30)
    second = first + rng.normal(0.2, 0.3, 30)
    apart = Clusters.singletons(30)
    gap = mean_contrast(second, apart).minus(mean_contrast(first, apart))
    assert gap.p_above() == pytest.approx(ttest_rel(second, first, alternative="greater").pvalue)


def test_items_of_a_cluster_move_a_mean_together():
    values = np.repeat(np.random.default_rng(3).normal(size=12), 5)
    together = mean_contrast(values, Clusters.from_labels([str(i // 5) for i in range(60)]))
    alone = mean_contrast(values[::5], Clusters.singletons(12))
    assert together.error == pytest.approx(alone.error)
    assert together.n == 12


def test_equivalence_needs_both_bounds():
    narrow = Contrast(0.0, np.full(100, 0.002))
    assert narrow.p_within(0.1) < 0.01
    assert Contrast(0.09, np.full(100, 0.002)).p_within(0.1) > 0.05
    assert Contrast(0.3, np.full(100, 0.002)).p_within(0.1) > 0.99


def test_a_single_item_shows_nothing():
    contrast = mean_contrast(np.ones(1), Clusters.singletons(1))
    assert contrast.p_above() == 1.0
    assert np.isnan(contrast.bounds()).all()


def test_values_that_all_agree_have_no_error_but_the_least_one():
    same = Contrast(0.2, np.zeros(10))
    assert (same.p_above(), same.p_below()) == (0.0, 1.0)
    assert Contrast(0.2, np.zeros(10), least=0.1).p_above() > 0.01


def test_weights_are_a_mean_minus_a_mean():
    losses = np.arange(6.0)
    weights = layer_weights(np.arange(6), [4, 5], [0, 1, 2])
    assert losses @ weights == pytest.approx(4.5 - 1.0)
    assert not layer_weights(np.arange(3), [], []).any()


def test_the_error_of_a_share_is_that_of_the_jackknife():
    world = worlds()[1]._replace(damage=dict.fromkeys(worlds()[1].damage, flat(2.0)), n=60)
    cells = [
        cell for cell in made_up_cells(np.random.default_rng(4), world) if cell.task == "facts"
    ]
    floors = {(c.task, c.protocol): np.full(60, 0.25) for c in cells}
    pool = pool_cells(cells, floors, 1)
    weights = layer_weights(pool.layers, [0, 1, 2], [20, 21])
    contrast = share_contrast(pool, weights)
    left_out = []
    for item in range(60):
        kept = pool.clusters.codes != item
        lost = (pool.loss @ weights)[kept].sum()
        left_out.append(lost / (pool.intact - pool.floor)[kept].sum())
    spread = np.sqrt(59 / 60 * ((left_out - np.mean(left_out)) ** 2).sum())
    assert contrast.error == pytest.approx(spread, rel=0.03)


def test_the_error_of_a_centre_is_that_of_the_jackknife():
    world = worlds()[6]._replace(n=60)
    cells = [
        cell for cell in made_up_cells(np.random.default_rng(5), world) if cell.task == "facts"
    ]
    floors = {(c.task, c.protocol): np.full(60, 0.25) for c in cells}
    pool = pool_cells(cells, floors, 1)
    contrast = centre_contrast(pool, without=[0])
    assert contrast is not None
    left_out = []
    for item in range(60):
        lost = pool.loss[pool.clusters.codes != item][:, 1:].sum(axis=0)
        left_out.append((lost * pool.layers[1:]).sum() / lost.sum())
    spread = np.sqrt(59 / 60 * ((left_out - np.mean(left_out)) ** 2).sum())
    lost = pool.loss[:, 1:].sum(axis=0)
    assert contrast.estimate == pytest.approx((lost * pool.layers[1:]).sum() / lost.sum())
    assert np.sqrt((contrast.moves**2).sum()) == pytest.approx(spread, rel=0.05)
    assert contrast.error >= np.sqrt((contrast.moves**2).sum())
    assert centre_contrast(pool._replace(loss=-np.abs(pool.loss))) is None


def test_other_items_are_not_paired():
    first, second = (np.random.default_rng(i).normal(size=20) for i in (6, 7))
    gap = unpaired_difference(*(mean_contrast(x, Clusters.singletons(20)) for x in (first, second)))
    assert gap.estimate == pytest.approx(first.mean() - second.mean())
    assert gap.error == pytest.approx(np.sqrt((first.var(ddof=1) + second.var(ddof=1)) / 20))


def test_that_several_are_false_is_bonferroni_of_the_rest():
    p = np.array([0.04, 0.001, 0.3, 0.01])
    assert at_least_p_value(p, 1) == pytest.approx(4 * 0.001)
    assert at_least_p_value(p, 3) == pytest.approx(2 * 0.04)
    assert at_least_p_value(p, 4) == pytest.approx(0.3)
    assert at_least_p_value(p, 5) == 1.0
