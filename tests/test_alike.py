"""Bounds where all items of a sample are alike: of depths, removed layers, and interactions."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest

from layerwise.analyses.removal.tables import curves_table
from layerwise.stats.depth.depth_inference import (
    CENTRE,
    HALF,
    Axis,
    depth_bounds,
    depth_difference,
    depth_p_value,
)
from layerwise.stats.depth.depths import centre_of_mass, half_depth
from layerwise.stats.depth.item_curves import (
    ItemCurves,
    losses_by_item,
    progress_by_item,
    settled_by_item,
)
from layerwise.stats.families.estimate import exact_where_alike
from layerwise.storage.parquet import frame
from tests.cases import data_sets, most_errors
from tests.interacting import interactions_result, with_pairs
from tests.test_removal import rows_of

N, LAYERS, LAYER, SELDOM = 24, 12, 5, 1 / 30


def needed_layer(rng: np.random.Generator, n: int = N, seldom: float = SELDOM) -> ItemCurves:
    """One layer is needed, of a few items the last one instead; nine in ten are answered."""
    right = (rng.random(n) < 0.9).astype(float)
    where = np.where(rng.random(n) < seldom, LAYERS - 1, LAYER)
    correct = right[:, None] * (where[:, None] != np.arange(LAYERS))
    return losses_by_item(right, correct, 0.0)


@pytest.mark.parametrize("measure", [HALF, CENTRE])
def test_depths_of_samples_without_spread_cover_what_seemed_certain(measure):
    """Half of the samples show none of the items that need another layer."""
    truth = {
        # the mean contrast is 0 where (1 - seldom) (2 part - 1) = seldom
        HALF: LAYER + SELDOM / (1 - SELDOM) / 2,
        CENTRE: (1 - SELDOM) * LAYER + SELDOM * (LAYERS - 1),
    }[measure]
    n, missed, certain = data_sets(120), 0, 0
    for seed in range(n):
        curves = needed_layer(np.random.default_rng(seed))
        low, high = depth_bounds([curves], measure)
        assert low < high
        certain += not curves.values[:, LAYER + 1 :].std(axis=1).any()
        missed += not low <= truth <= high
    assert certain > n / 4
    assert missed <= most_errors(n)


def test_bounds_of_a_depth_are_those_of_the_items_that_a_sample_would_not_show():
    curves = needed_layer(np.random.default_rng(0), seldom=0.0)
    n = int(curves.scale.sum())
    unseen = binomtest(0, n).proportion_ci(0.95, "exact").high
    # a share of the items in the first layer, or in the last
    centre = LAYER * (1 - unseen), LAYER + unseen * (LAYERS - 1 - LAYER)
    assert depth_bounds([curves], CENTRE) == pytest.approx(centre, abs=1e-4)
    half = unseen / (1 - unseen) / 2
    assert depth_bounds([curves], HALF) == pytest.approx((LAYER - half, LAYER + half), abs=1e-4)


@pytest.mark.parametrize("scatter", [1e-3, 0.5])
@pytest.mark.parametrize("measure", [HALF, CENTRE])
def test_depths_that_are_read_cover_where_items_are_nearly_alike(measure, scatter):
    """Three in a hundred answers are read from the last layer on, the others nearly from one on.

    Intervals of the sample's spread alone miss the truth in 42 % of the data sets where that is
    all but nothing, and a centre of mass in 9 % where answers scatter by half a layer.
    """

    def read(rng: np.random.Generator, n: int) -> ItemCurves:
        seldom = rng.random(n) < SELDOM
        centre = np.where(seldom, LAYERS - 1, LAYER) + scatter * rng.standard_normal(n)
        values = 1 / (1 + np.exp((centre[:, None] - np.arange(LAYERS + 1) + 0.5) / 0.3))
        values *= rng.beta(5, 2, (n, 1))
        return progress_by_item(values - values[:, :1])

    mean = read(np.random.default_rng(0), 100_000).values.mean(axis=0)[None]
    depth = {HALF: half_depth, CENTRE: centre_of_mass}[measure]
    truth = float(depth(mean / mean[:, -1:])[0])
    n = data_sets(150)
    missed = sum(
        depth_p_value([read(np.random.default_rng(seed), N)], measure, truth) < 0.05
        for seed in range(n)
    )
    assert missed <= most_errors(n)


@pytest.mark.parametrize(("n_right", "seldom"), [(12, 1 / 8), (24, 1 / 30)])
def test_prediction_depths_cover_where_few_answers_settle_at_the_other_end(n_right, seldom):
    """A t-test alone misses the mean in 21 and 45 % of the data sets."""
    n, missed = data_sets(120), 0
    for seed in range(n):
        settled = np.where(np.random.default_rng(seed).random(n_right) < seldom, 0, LAYERS - 2)
        right = np.ones(n_right, dtype=bool)
        curves = settled_by_item(settled.astype(float), right, LAYERS)
        truth = (1 - seldom) * (LAYERS - 2)
        missed += depth_p_value([curves], "prediction depth", truth) < 0.05
    assert missed <= most_errors(n)


def test_losses_that_are_alike_have_bounds_whatever_is_right_without_layers():
    """Every item is lost in one layer, and a few would be right without any."""
    floor = (np.arange(N) < 3).astype(float)
    correct = np.repeat((np.arange(LAYERS) != LAYER)[None].astype(float), N, axis=0)
    low, high = depth_bounds([losses_by_item(np.ones(N), correct, floor)], HALF)
    assert low < LAYER < high


def test_layers_beside_each_other_are_told_apart_though_no_item_differs():
    axis = Axis(LAYERS, 0.0, 1.0)
    first = needed_layer(np.random.default_rng(0), seldom=0.0)
    later = first._replace(values=np.roll(first.values, 1, axis=1) * (np.arange(LAYERS + 1) > 0))
    low, high, p = depth_difference([first], [later], (axis, axis), paired=True)
    assert 0 < low < 1 < high
    assert p < 1e-4


def test_a_few_items_that_are_alike_tell_nothing_of_depths():
    curves = needed_layer(np.random.default_rng(0), n=5, seldom=0.0)
    assert depth_bounds([curves], HALF) == (0.0, LAYERS - 1.0)


def test_shares_of_removed_layers_without_width_cover_what_seemed_certain():
    n, missed, certain = data_sets(120), 0, 0
    for seed in range(n):
        rng = np.random.default_rng(seed)
        parts = []
        for split in ("selection", "held out"):
            intact, kept = rng.random(24) < 0.9, rng.random(24) < SELDOM
            answers = {"intact": intact, "no layers": np.zeros(24, dtype=bool), "1": kept}
            parts += rows_of(answers, split)
        (row,) = curves_table(frame("removal", parts), lambda task, protocol: 0.25, 0).to_dict(
            "records"
        )
        certain += not kept.any()
        missed += not row["share_low"] <= (0.9 - SELDOM) / 0.9 <= row["share_high"]
        assert row["share_low"] < row["share_high"]
    assert certain > n / 5
    assert missed <= most_errors(n)


def test_bounds_of_what_all_items_share_are_exact():
    for value, most in ((0.0, 2.0), (-1.0, 2.0), (0.5, 4.0)):
        unseen = binomtest(0, 40).proportion_ci(0.95, "exact").high
        (low,), (high,) = exact_where_alike(np.array([value]), np.array([40]), most)
        assert low == pytest.approx((1 - unseen) * value - unseen * most)
        assert high == pytest.approx((1 - unseen) * value + unseen * most)
        (wider,), _ = exact_where_alike(np.array([value]), np.array([40]), most, n_tests=100)
        assert wider < low


def test_interactions_of_answers_that_never_change_have_bounds():
    """Nothing changes in 30 items, so that some others may still be redundant."""
    costs = with_pairs(np.zeros((30, 3)), np.zeros((30, 3)))
    table = interactions_result(costs).pairs()
    accuracy = table.loc[table["measure"] == "accuracy"]
    assert (accuracy["interaction"] == 0).all()
    assert (accuracy["low"] < 0).all()
    assert (accuracy["high"] > 0).all()
    assert (accuracy["run_low"] < accuracy["low"]).all()
    assert (accuracy["run_high"] > accuracy["high"]).all()
    assert (accuracy["excess_high"] > accuracy["high"]).all()
    assert pd.notna(accuracy["excess_low"]).all()
