from __future__ import annotations

from inspect import signature
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom, chi2, t, ttest_1samp, ttest_ind

from layerwise.analyses.comparison.api import compare
from layerwise.analyses.emergence.api import emergence
from layerwise.errors import UserError
from layerwise.stats.depth.depth_inference import (
    CENTRE,
    HALF,
    SMALLEST_DEPTH,
    Axis,
    depth_bounds,
    depth_difference,
    depth_p_value,
    is_established,
    mixture_p,
    refuse_negative_depth,
    same_depth_p_value,
)
from layerwise.stats.depth.item_curves import (
    ItemCurves,
    costly_layers,
    curves_above_background,
    layers_in_doubt,
    losses_by_item,
    shared_layers,
    unseen_spread,
)
from layerwise.stats.items.clusters import Clusters
from tests import synthetic
from tests.cases import data_sets, most_errors
from tests.comparing import pair_rows, ready
from tests.synthetic import cell_records
from tests.test_validity_study import FOLDER, part

CASES = part("depth_cases")
Case, answers = CASES.Case, CASES.answers


def noisy(seed: int, n: int = 60, n_layers: int = 8) -> ItemCurves:
    rng = np.random.default_rng(seed)
    lost = rng.normal(0.1, 1.0, (n, n_layers)) + 2.0 * (np.arange(n_layers) == 3)
    values = np.concatenate([np.zeros((n, 1)), np.cumsum(lost, axis=1)], axis=1)
    return ItemCurves(values, np.ones(n), np.zeros((2, n_layers + 1)))


def cumulative(lost: list[float], n: int = 20) -> ItemCurves:
    """The same losses in every item, and in every second one twice as much."""
    values = np.concatenate([[0.0], np.cumsum(lost)])[None] * (1 + np.arange(n)[:, None] % 2)
    return ItemCurves(values, np.ones(n), np.zeros((2, len(lost) + 1)))


@pytest.mark.parametrize("size", [1e-7, 1e-5])
def test_depths_that_agree_to_rounding_are_not_told_apart(size):
    """A model that computes the same each time: what two methods find differs by rounding."""
    rng, axis = np.random.default_rng(0), Axis(8, 0.0, 7.0)
    steps = np.concatenate([np.zeros(4), np.ones(5)])

    def found() -> list[ItemCurves]:
        values = steps + size * (rng.normal(0, 0.01, (24, 9)) + rng.normal(0, 1.0, 9))
        return [ItemCurves(values, np.ones(24), np.zeros((2, 9)))]

    for measure in (HALF, CENTRE):
        one, other = found(), found()
        assert same_depth_p_value(one, other, (axis, axis), paired=True, measure=measure) == 1.0
        low, high, p = depth_difference(one, other, (axis, axis), paired=True, measure=measure)
        assert p == 1.0
        # some other item might have its effect elsewhere, which is less than a layer here
        assert -1 / 7 < low <= 0 <= high < 1 / 7
    one_later = np.tile(np.concatenate([[0.0], steps[:-1]]), (24, 1))
    later = [ItemCurves(one_later, np.ones(24), np.zeros((2, 9)))]
    assert same_depth_p_value(found(), later, (axis, axis), paired=True) < 1e-6


# --- against outside values -----------------------------------------------------------------


@pytest.mark.parametrize("place", [-0.5, 2.5, 7.4])
def test_a_place_is_tested_by_the_t_test_of_what_lies_before_and_behind_it(place):
    curves = noisy(0)
    added = np.diff(curves.values, axis=1)
    before = np.clip(place + 0.5 - np.arange(8), 0, 1)  # part of each layer before the place
    expected = ttest_1samp(added @ (2 * before - 1), 0).pvalue
    assert depth_p_value([curves], HALF, place) == pytest.approx(expected, rel=1e-6)
    towards = added @ (place - np.arange(8))
    expected = ttest_1samp(towards, 0).pvalue
    assert depth_p_value([curves], CENTRE, place) == pytest.approx(expected, rel=1e-6)


def test_the_interval_of_a_centre_of_mass_is_fieller_s():
    curves = noisy(1)
    added = np.diff(curves.values, axis=1)
    above, below, n = added @ np.arange(8), added.sum(axis=1), len(added)
    (a, c), (_, b) = np.cov(above, below) / n
    level = t.ppf(0.975, n - 1) ** 2
    roots = np.roots([below.mean() ** 2 - level * b, -2 * (above.mean() * below.mean() - level * c),
                      above.mean() ** 2 - level * a])  # fmt: skip
    assert depth_bounds([curves], CENTRE) == pytest.approx(sorted(roots), abs=1e-5)


def test_tasks_of_a_capability_are_joined_as_by_welch():
    one, other = noisy(2, 25), noisy(3, 70)
    g = [np.diff(c.values, axis=1) @ np.r_[np.ones(3), 0, -np.ones(4)] for c in (one, other)]
    expected = ttest_ind(g[0], -g[1], equal_var=False).pvalue
    assert depth_p_value([one, other], HALF, 3.0) == pytest.approx(expected, rel=1e-6)


def test_tasks_have_equal_weights_whatever_their_unit_and_number_of_items():
    one, other = cumulative([3.0, 0.0, 0.0, 0.0]), cumulative([0.0, 0.0, 0.0, 1.0], n=80)
    one = one._replace(scale=np.full(20, 3.0))
    assert depth_p_value([one, other], HALF, 1.5) == pytest.approx(1.0)
    assert depth_p_value([one, other], HALF, 3.1) < 1e-6


def test_the_statistic_of_a_corner_has_its_distribution():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 400_000))
    # the path comes along y = 0 from the left to the corner and goes up from there
    left = np.where(x > 0, np.abs(y), np.hypot(x, y))
    up = np.where(y < 0, np.abs(x), np.hypot(x, y))
    squared = np.minimum(left, up) ** 2
    for value in (1.0, 3.0, 4.245):
        assert mixture_p(value) == pytest.approx((squared > value).mean(), abs=0.003)
    assert mixture_p(4.245) == pytest.approx(0.05, abs=1e-4)
    assert chi2.sf(4.245, 1) < mixture_p(4.245) < chi2.sf(4.245, 2)


# --- by hand --------------------------------------------------------------------------------


# The share of other items that ``cumulative`` would not show: of weights 1 and 2 in 20 items, that
# of 18 of one weight. Such items weigh 1, these 1.5 on average; so far they move a half-effect
# depth in a layer that has all of the effect.
UNSEEN = 1 - 0.025 ** (1 / 18)
MOVED = UNSEEN / (1 - UNSEEN) / 1.5 / 2


def test_a_depth_without_noise_is_open_by_what_a_sample_would_not_show():
    curves = cumulative([0.0, 0.0, 1.0, 0.0])
    assert depth_bounds([curves], HALF) == pytest.approx((2 - MOVED, 2 + MOVED), abs=1e-4)
    low, high = depth_bounds([curves], CENTRE)
    assert low < 2.0 < high
    assert 2.0 - low == pytest.approx(2 * (high - 2.0), rel=1e-3)  # twice as far from the end
    assert depth_bounds([cumulative([-2.0, 0.0, 0.0, 3.0])], CENTRE) == (3.0, 3.0)  # 9 without end


def test_between_two_layers_that_are_needed_alike_any_depth_is_possible():
    low, high = depth_bounds([cumulative([0.0, 1.0, 0.0, 1.0, 0.0])], HALF)
    assert 1.4 < low < 1.5
    assert 2.5 < high < 2.6


@pytest.mark.parametrize("measure", [HALF, CENTRE])
@pytest.mark.parametrize("seed", range(2))
def test_an_interval_ends_where_a_place_is_just_significant(measure, seed):
    curves, turned = [noisy(seed, 300)], 0
    for end, outwards in zip(depth_bounds(curves, measure), (-2e-6, 2e-6), strict=True):
        if 0 < end < curves[0].n_layers - 1:
            turned += 1
            assert depth_p_value(curves, measure, end - outwards) > 0.05
            assert depth_p_value(curves, measure, end + outwards) < 0.05
    assert turned


def test_a_difference_is_open_by_what_either_depth_is():
    axis = Axis(4, 0.0, 3.0)
    pair = cumulative([0.0, 1.0, 0.0, 0.0]), cumulative([0.0, 0.0, 0.0, 1.0])
    for paired in (False, True):
        low, high, p = depth_difference(
            [pair[0]], [pair[1]], (axis, axis), paired=paired, least=1e-5
        )
        assert p == 1e-5
        # as two intervals together, to an eighth of a layer
        assert (2 - 2 * MOVED) / 3 - 1 / 24 <= low < 2 / 3 < high <= (2 + 2 * MOVED) / 3 + 1 / 24
        low, high, p = depth_difference([pair[0]], [pair[0]], (axis, axis), paired=paired)
        assert low < 0 < high
        assert p == pytest.approx(1.0)


def test_models_of_different_size_are_compared_in_relative_depth():
    small, large = cumulative([0.0, 1.0, 0.0, 0.0]), cumulative([0.0, 0.0, 1.0, 1.0, 0, 0, 0, 0])
    axes = Axis(4, 0.5, 4.0), Axis(8, 0.5, 8.0)  # 1.5 / 4 is the same as (2.5 + 0.5) / 8
    low, high, p = depth_difference([small], [large], axes, paired=False)
    assert p == pytest.approx(1.0)
    assert low < 0 < high
    assert high - low < 2 / 8


def test_one_item_says_nothing():
    one = cumulative([0.0, 1.0], n=1)
    assert np.isnan(depth_bounds([one], HALF)).all()
    found = depth_difference([one], [one], (Axis(2, 0, 1), Axis(2, 0, 1)), paired=True)
    assert np.isnan(found[:2]).all()
    assert found.p == 1.0 == depth_p_value([one], HALF, 0.0)


def test_what_is_too_small_is_not_established():
    clear = {"difference": 0.1, "low": 0.05, "high": 0.15}
    assert is_established(clear, 0.01, smallest=0.1)
    assert not is_established(clear, 0.01, smallest=0.11)
    assert not is_established(clear, 0.06, smallest=0.1)
    assert not is_established(clear | {"low": -0.01}, 0.01, smallest=0.1)
    with pytest.raises(UserError, match=r"smallest depth of interest is -1\.0: expected"):
        refuse_negative_depth(-1.0)


def test_the_smallest_depth_of_interest_can_be_set():
    for function in (emergence, compare):
        assert signature(function).parameters["smallest_depth"].default == SMALLEST_DEPTH
    right, other = np.ones((2, 120, 31), bool)
    right[:60, 1 + 2] = False
    other[:60, 1 + 3] = False
    cells = [cell_records(right, "keys", "retrieval"), cell_records(other, "sums", "reasoning")]
    result = synthetic.ablation(*cells, n_layers=30)
    (order,) = emergence([result], n_resamples=20).order.to_dict("records")
    assert order["difference"] == pytest.approx(1 / 29)
    assert order["p_holm"] < 0.05
    assert order["significant"]
    (order,) = emergence([result], n_resamples=20, smallest_depth=1.5).order.to_dict("records")
    assert not order["significant"]


def test_spread_that_a_sample_cannot_show_is_taken_from_what_balances_it():
    # 4 of 18 right items lost, no wrong item: their gains would be seen in 1 of 20 at best
    found = unseen_spread(np.array([0.2, 0.0]), np.zeros(2), n_wrong=0, n=18)
    assert found[0].tolist() == pytest.approx([0.0, 0.2 * np.sqrt(20), 0.2 * np.sqrt(20)])
    assert found[1].tolist() == [0.0, 0.0, 0.0]
    right = np.ones(18)
    after = np.ones((18, 2))
    after[:4, 0] = 0
    assert losses_by_item(right, after, 0.25).unseen[0, 1] == pytest.approx(4 / 18 * np.sqrt(20))
    after[:, 0] = 0  # significant: it is the effect itself
    assert losses_by_item(right, after, 0.25).unseen[0, 1] == 0.0


# --- the error rates of the validity study's grid, in its hardest cells ------------------------

CELLS = [
    # layer 2 alone is needed in both: much and quietly, less and with answers that flip
    (Case(30, 40, {2: 1.0}, 0.0, 0.8), Case(30, 40, {2: 0.6}, 0.15, 0.8)),
    (Case(30, 100, {2: 1.0}, 0.02, 0.8), Case(30, 100, {2: 0.5}, 0.10, 0.8)),
    (Case(8, 40, {4: 1.0}, 0.0, 0.95), Case(8, 40, {layer: 0.2 for layer in range(1, 8)}, 0.15,
                                            0.8, "marginal")),
]  # fmt: skip


def simulate_curves(
    rng: np.random.Generator, case: Any, hard: np.ndarray | None = None
) -> ItemCurves:
    intact, after = answers(rng, case, hard)
    return losses_by_item(intact.astype(float), after.astype(float), case.chance)


@pytest.mark.long
@pytest.mark.parametrize("cell", range(len(CELLS)))
@pytest.mark.parametrize("paired", [False, True])
def test_equal_depths_of_unequal_noise_and_effect_are_rarely_told_apart(cell, paired):
    rng, n_sets, cases = np.random.default_rng(cell), data_sets(400), CELLS[cell]
    axis = Axis(cases[0].n_layers, 0.0, cases[0].n_layers - 1.0)
    errors = missed = 0
    for _ in range(n_sets):
        hard = rng.random(cases[0].n) if paired else None
        one, other = (simulate_curves(rng, case, hard) for case in cases)
        errors += same_depth_p_value([one], [other], (axis, axis), paired=paired) < 0.05
        truth = 4.0 if cases[0].n_layers == 8 else 2.0
        missed += sum(depth_p_value([curves], HALF, truth) < 0.05 for curves in (one, other))
    assert errors <= most_errors(n_sets)
    assert missed <= most_errors(2 * n_sets)


def test_few_wrong_items_do_not_make_intervals_too_sure():
    case, n_sets = Case(30, 20, {2: 1.0}, 0.1, 0.95), data_sets(600)
    rng, missed = np.random.default_rng(0), {True: 0, False: 0}
    for _ in range(n_sets):
        curves = simulate_curves(rng, case)
        for guarded in missed:
            mine = curves if guarded else curves._replace(unseen=0 * curves.unseen)
            missed[guarded] += depth_p_value([mine], HALF, 2.0) < 0.05
    assert missed[True] <= most_errors(n_sets)
    assert missed[False] > n_sets / 5


@pytest.mark.long
def test_a_comparison_of_models_that_need_the_same_layer_finds_no_difference():
    n_sets, claims, told = data_sets(40), 0, 0
    for seed in range(n_sets):
        rng = np.random.default_rng(seed)
        hard = rng.random(100)
        runs = []
        for name, case in zip(("one", "two"), CELLS[1], strict=True):
            intact, after = answers(rng, case, hard)
            runs.append(ready(name, np.column_stack([intact, after]), n_resamples=20))
        rows = pd.DataFrame(pair_rows(runs, []))
        found = rows.loc[rows["measure"] == HALF, "p"]
        claims, told = claims + int((found < 0.05).sum()), told + len(found)
    assert claims <= most_errors(n_sets)
    assert told > n_sets / 2


# --- orders that only look like one -----------------------------------------------------------


def _is_order_established(first: np.ndarray, second: np.ndarray, n: int, seed: int) -> bool:
    """True if an order is established of two capabilities that lose these shares by layer."""
    rng = np.random.default_rng(seed)
    cells = []
    for lost, name in ((first, "retrieval"), (second, "knowledge")):
        right = np.ones((n, 31), bool)
        right[:, 1:] = rng.random((n, 30)) >= lost
        cells.append(cell_records(right, f"{name} task", name))
    result = synthetic.ablation(*cells, n_layers=30)
    (order,) = emergence([result], n_resamples=20).order.to_dict("records")
    return bool(order["significant"])


def _layer_losses(background: float, **layers: float) -> np.ndarray:
    lost = np.full(30, background)
    for name, share in layers.items():
        lost[int(name[1:])] = share
    return lost


@pytest.mark.long
@pytest.mark.parametrize(
    ("first", "second"),
    [
        # the same layers, one capability more fragile everywhere
        (_layer_losses(0.02, l3=0.6, l4=0.6, l5=0.6), _layer_losses(0.12, l3=0.6, l4=0.6, l5=0.6)),
        # the same two layers in other proportions
        (_layer_losses(0.0, l3=0.75, l25=0.25), _layer_losses(0.0, l3=0.25, l25=0.75)),
    ],
)
def test_no_order_is_established_where_both_need_the_same_layers(first, second):
    claimed = [_is_order_established(first, second, 100, seed) for seed in range(6)]
    assert sum(claimed) <= 1


def test_the_same_two_layers_in_other_proportions_are_no_order_of_few_items():
    first, second = _layer_losses(0.0, l3=0.75, l25=0.25), _layer_losses(0.0, l3=0.25, l25=0.75)
    assert not any(_is_order_established(first, second, 24, seed) for seed in range(3))


@pytest.mark.parametrize(
    "shared", [{"l0": 0.3}, {"l0": 0.85, "l1": 0.85, "l2": 0.4, "l8": 0.3, "l11": 0.5}]
)
def test_an_order_of_layers_of_their_own_is_established_whatever_both_need(shared):
    first, second = _layer_losses(0.01, **shared, l13=0.8), _layer_losses(0.01, **shared, l20=0.8)
    assert all(_is_order_established(first, second, 100, seed) for seed in range(2))


def _n_claimed_orders(little: float, n: int, n_sets: int) -> int:
    """Data sets in which the first comes before the second, whose own layer costs it a little."""
    study, rng = part("order_claims"), np.random.default_rng(0)
    costs = [study.SHARED | own for own in ({"l13": 0.6, "l20": little}, {"l20": 0.6})]
    asked = [study.MadeUpCapability((study.profile(0.0, **layers),), n, 0.9, 1) for layers in costs]
    return sum(study.claimed_order(study.made_up_cells(rng, asked)) > 0 for _ in range(n_sets))


def test_a_layer_that_one_needs_a_little_is_not_the_other_s_own():
    n_sets = data_sets(100)
    assert _n_claimed_orders(0.08, 50, n_sets) <= most_errors(n_sets)
    assert _n_claimed_orders(0.0, 200, 4) >= 3


def test_layers_are_in_doubt_unless_shown_to_cost_one_of_both_little():
    def curves(n: int, **lost: int) -> list[ItemCurves]:
        answers = np.ones((n, 12))
        for layer, n_lost in lost.items():
            answers[:n_lost, int(layer[1:])] = 0
        return [losses_by_item(np.ones(n), answers, 0.0)]

    one, other = curves(40, l0=40, l3=20), curves(40, l0=20, l5=40)
    assert shared_layers(one, other) == {0}
    assert layers_in_doubt(one, other) == {3}
    assert not layers_in_doubt(curves(200, l0=200, l3=100), curves(200, l0=100, l5=200))
    # A layer costs the other too little to be shown, and too much to be none.
    assert not layers_in_doubt(curves(60, l3=60), curves(60, l3=1, l5=60))
    assert layers_in_doubt(curves(60, l3=60), curves(60, l3=4, l5=60)) == {3}


def test_costs_beyond_the_background_leave_out_layers_and_damage_that_all_share():
    rng = np.random.default_rng(0)
    lost = rng.random((40, 12)) < _layer_losses(0.1, l0=0.9, l7=0.8)[:12]
    curves = losses_by_item(np.ones(40), 1.0 - lost, 0.0)
    left = np.diff(curves_above_background(curves, [0]).values, axis=1)
    middle = 1 + np.argsort(lost[:, 1:].mean(axis=0), kind="stable")[2:9]
    expected = lost - lost[:, middle].mean(axis=1, keepdims=True)
    expected[:, 0] = 0
    np.testing.assert_allclose(left, expected, atol=1e-12)
    assert costly_layers([curves]) == {0, 7}
    assert not curves_above_background(curves, range(12)).values.any()


def test_depths_of_shared_items_that_lose_at_opposite_ends_are_no_independent_samples():
    rng = np.random.default_rng(0)
    n = 60
    early = rng.random(n) < 0.5
    losses = np.zeros((2, n, 30))
    losses[0, early, 3] = losses[0, ~early, 20] = 1
    losses[1, ~early, 3] = losses[1, early, 20] = 1
    labels = [f"fact {i}" for i in range(n)]
    axis = Axis(30, 0.0, 29)

    def p_of(clusters):
        curves = [losses_by_item(np.ones(n), 1 - each, 0.0, clusters=clusters) for each in losses]
        return same_depth_p_value([curves[0]], [curves[1]], (axis, axis), paired=False)

    assert p_of(Clusters.from_labels(labels)) > p_of(Clusters.singletons(n)) - 1e-12


ORDERS = (FOLDER.parents[1] / "docs" / "evidence" / "orders.md").read_text()
PAGE = (FOLDER.parents[1] / "docs" / "evidence" / "depths.md").read_text()


def saved_depths(name: str) -> pd.DataFrame:
    return pd.read_parquet(FOLDER / "results" / f"depth_{name}.parquet")


def test_intervals_cover_in_every_cell():
    table = saved_depths("intervals")
    rate = table["covered"] / table["sets"]
    assert rate.min() > 0.9
    assert (table["covered_centre"] / table["sets"]).min() > 0.9
    assert f"{100 * rate.min():.1f} % or more of the data sets in each of {len(table):,}" in PAGE
    assert f"{100 * rate.mean():.1f} % on average" in PAGE
    assert f"In {100 * (rate > 0.98).mean():.0f} % of the cells they cover more" in PAGE
    false = (table["told"] - table["told_covered"]) / table["sets"]
    assert f"at most {100 * false.max():.1f} % of all data sets" in PAGE


def test_equal_depths_are_told_apart_no_more_often_than_is_nominal():
    table = saved_depths("orders")
    same = table.loc[table["apart"] == 0]
    assert set(same["paired"]) == {False, True}
    rate = same["rejected"] / same["sets"]
    assert (same["rejected"] <= binom.ppf(0.999, same["sets"], 0.05)).all()
    assert rate.mean() < 0.05
    assert f"p < 0.05 in {100 * rate.mean():.1f} % of the data sets on average" in PAGE
    assert f"at most {100 * rate.max():.1f} % of the 300 of one of {len(same)} pairs" in PAGE
    far = table.loc[(table["apart"] > 0) & (table["layers"] == 8) & (table["items"] >= 100)]
    assert (far.loc[far["other_items"] >= 100, "rejected"] / 300 > 0.8).all()


def test_orders_by_ablation_are_claimed_falsely_as_rarely_as_is_nominal():
    study, table = part("order_claims"), pd.read_parquet(FOLDER / "results/order_claims.parquet")
    worlds = study.worlds()
    assert list(dict.fromkeys(table["world"])) == [world.name for world in worlds]
    assert (table["rate"] <= 0.05).all()
    worst = table.loc[table["rate"].idxmax()]
    low, high = (f"{100 * worst[end]:.1f}" for end in ("low", "high"))
    assert f"The worst cell is {100 * worst['rate']:.0f} % [{low}, {high}]." in ORDERS
    found = table.loc[table["order"] & (table["items"] == 200)].set_index("world")["found"]
    far = [name for name in found.index if "any layer costs" not in name]
    assert (found[far] / study.N_SETS > 0.7).all()


def test_only_the_estimator_in_use_holds_in_all_cells():
    table, names = saved_depths("candidates"), part("depth_candidates")
    worst = table.groupby("estimator").agg(
        covered=("covered", "min"), other=("other_covered", "min"), different=("different", "max")
    )
    least = worst[["covered", "other"]].min(axis=1)
    assert set(worst.index) == {*names.ESTIMATORS, names.INVERTED}
    assert least.loc[names.INVERTED] >= 90
    assert worst.loc[names.INVERTED, "different"] <= 7
    assert (least.drop(names.INVERTED) < 90).all()
    assert (worst.drop(names.INVERTED)["different"] > 7).all()


def test_curves_that_are_read_are_covered():
    table = saved_depths("curves")
    alone = table["other"].isna()
    rate = table[["inverted", "percentile"]].div(table["sets"], axis=0)
    assert rate.loc[alone, "inverted"].min() > 0.9
    assert rate.loc[~alone, "inverted"].max() <= 0.07
    worst = rate.loc[alone, "percentile"].min(), rate.loc[~alone, "percentile"].max()
    assert worst == (pytest.approx(0.8775), pytest.approx(0.12))
    assert f"{100 * worst[1]:.1f} % (20 items each" in PAGE


def test_saved_cells_are_those_that_the_study_makes():
    grid, cases = part("depth_grid"), part("depth_cases")
    table = saved_depths("intervals")
    case = cases.Case(8, 40, {2: 1.0}, 0.05, 0.8)
    mine = table.loc[
        (table["layers"] == 8) & (table["shape"] == "one") & (table["items"] == 40)
        & (table["effect"] == 1.0) & (table["flips"] == 0.05) & (table["accuracy"] == 0.8)
        & (table["noise"] == "independent")
    ]  # fmt: skip
    found = grid._coverage(case, int(mine["sets"].iloc[0]))
    for name in ("covered", "covered_centre", "told", "told_covered"):
        assert found[name] == mine[name].iloc[0], name
