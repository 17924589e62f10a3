from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import scipy.special
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize
from scipy.stats import multinomial, norm
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from layerwise import stats
from layerwise.analyses.ablation.claims.findings import no_loss
from layerwise.stats.items.clusters import Clusters
from layerwise.stats.share_tests.equivalence import (
    excludable_loss,
    gains_beside_loss,
    no_loss_of_nats_p_values,
    no_loss_p_values,
    score_p_values,
)
from tests.cases import data_sets, in_long_runs, most_errors


@pytest.mark.parametrize(
    ("successes", "n", "level"), [(0, 10, 0.95), (10, 10, 0.95), (7, 20, 0.9), (88, 100, 0.99)]
)
def test_exact_interval_equals_statsmodels(successes, n, level):
    found = stats.exact_interval(successes, n, level)
    low, high = proportion_confint(successes, n, alpha=1 - level, method="beta")
    assert found.estimate == successes / n
    assert found.low == pytest.approx(low, abs=1e-12)
    assert found.high == pytest.approx(high, abs=1e-12)


def test_exact_interval_of_nothing_is_everything():
    found = stats.exact_interval(0, 0)
    assert math.isnan(found.estimate)
    assert (found.low, found.high) == (0.0, 1.0)
    with pytest.raises(ValueError, match="k"):
        stats.exact_interval(3, 2)


@pytest.mark.parametrize("p", [0.03, 0.25, 0.5, 0.9])
def test_exact_interval_never_covers_less_than_its_level(p):
    n = 37
    bounds = [stats.exact_interval(k, n) for k in range(n + 1)]
    weight = scipy.stats.binom.pmf(np.arange(n + 1), n, p)
    assert sum(w for w, b in zip(weight, bounds, strict=True) if b.low <= p <= b.high) >= 0.95


@given(st.integers(0, 80), st.integers(0, 80))
def test_mcnemar_equals_statsmodels(b, c):
    if b + c:
        expected = min(1.0, mcnemar([[0, b], [c, 0]], exact=True).pvalue)
        assert stats.mcnemar_exact(b, c) == pytest.approx(expected, rel=1e-9)
        assert stats.mcnemar_exact(b, c) == pytest.approx(
            scipy.stats.binomtest(b, b + c).pvalue, rel=1e-9
        )


def test_mcnemar_with_no_difference_is_one():
    assert stats.mcnemar_exact(0, 0) == 1.0
    assert stats.mcnemar_exact(1, 0) == 1.0
    assert stats.mcnemar_exact(6, 0) == pytest.approx(2 / 64)


def test_paired_bootstrap_agrees_with_scipy():
    values = np.random.default_rng(3).exponential(size=60)
    found = stats.paired_bootstrap(values, seed=1, n_resamples=20_000)
    reference = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(5)
    ).confidence_interval
    assert found.estimate == pytest.approx(values.mean())
    assert found.low == pytest.approx(reference.low, abs=0.01)
    assert found.high == pytest.approx(reference.high, abs=0.01)


def test_paired_bootstrap_covers_as_often_as_it_says():
    rng = np.random.default_rng(0)
    found = [
        stats.paired_bootstrap(rng.normal(0.3, 1, size=80), seed=rng, n_resamples=400)
        for _ in range(500)
    ]
    covered = np.mean([i.low <= 0.3 <= i.high for i in found])
    assert 0.92 <= covered <= 0.98


def test_paired_bootstrap_of_none_and_one():
    none, one = stats.paired_bootstrap([], seed=0), stats.paired_bootstrap([0.5], seed=0)
    assert np.isnan([none.estimate, none.low, none.high, one.low, one.high]).all()
    assert one.estimate == 0.5


def test_the_same_items_are_drawn_for_every_layer():
    values = np.random.default_rng(1).normal(size=(30, 4))
    indices = stats.resample_indices(30, 50, seed=2)
    expected = np.stack([values[row].mean(axis=0) for row in indices])
    np.testing.assert_allclose(stats.resampled_means(values, indices), expected)
    np.testing.assert_array_equal(indices, stats.resample_indices(30, 50, seed=2))
    assert stats.resample_indices(0, 5, seed=0).shape == (5, 0)


def test_generator_depends_on_seed_and_names_only():
    def draw(*key):
        return stats.generator(*key).integers(0, 2**62)

    assert draw(0, "a") == draw(0, "a")
    assert len({draw(0, "a"), draw(1, "a"), draw(0, "b"), draw(0, "a", "b")}) == 4


def test_percentile_bounds_count_undefined_draws_at_both_ends():
    draws = np.linspace(0.0, 1.0, 1001)[:, None].repeat(2, axis=1)
    draws[:30, 1] = np.nan
    low, high = stats.percentile_bounds(draws, 0.95)
    np.testing.assert_allclose([low[0], high[0]], [0.025, 0.975])
    assert (low[1], high[1]) == (-np.inf, np.inf)
    assert np.isnan(stats.percentile_bounds(draws[:0], 0.95)).all()


def test_share_lost_is_the_ratio_of_paired_means():
    intact = np.array([True] * 80 + [False] * 20)
    changed = np.array([True] * 50 + [False] * 50)
    found = stats.share_lost(intact, changed, 0.25, seed=0, n_resamples=5000)

    def ratio(a, b, axis):
        return (a.mean(axis=axis) - b.mean(axis=axis)) / (a.mean(axis=axis) - 0.25)

    reference = scipy.stats.bootstrap(
        (intact, changed), ratio, paired=True, vectorized=True, n_resamples=5000,
        method="percentile", rng=np.random.default_rng(1),
    ).confidence_interval  # fmt: skip
    assert found.estimate == pytest.approx(0.3 / 0.55)
    assert found.low == pytest.approx(reference.low, abs=0.02)
    assert found.high == pytest.approx(reference.high, abs=0.02)


def test_share_lost_covers_as_often_as_it_says():
    rng = np.random.default_rng(4)
    covered = []
    for _ in range(400):
        intact = rng.random(120) < 0.8
        changed = np.where(rng.random(120) < 0.4, rng.random(120) < 0.25, intact)
        found = stats.share_lost(intact, changed, 0.25, seed=rng, n_resamples=400)
        covered.append(found.low <= 0.4 <= found.high)
    assert 0.91 <= np.mean(covered) <= 0.985


def test_share_lost_is_unbounded_when_the_denominator_may_vanish():
    intact, changed = np.array([True] + [False] * 19), np.array([False] * 20)
    found = stats.share_lost(intact, changed, 0.0, seed=0)
    assert found.estimate == 1.0
    assert (found.low, found.high) == (-np.inf, np.inf)


def test_share_lost_of_none_one_and_chance():
    empty, one, wrong = np.zeros(0, bool), np.array([True]), np.array([False])
    assert math.isnan(stats.share_lost(empty, empty, 0.25, seed=0).estimate)
    single = stats.share_lost(one, wrong, 0.25, seed=0)
    assert single.estimate == pytest.approx(1 / 0.75)
    assert math.isnan(single.low)
    assert math.isnan(single.high)
    assert math.isnan(stats.share_lost(wrong, one, 0.25, seed=0).estimate)


@pytest.mark.parametrize(("ours", "theirs"), [("holm", "holm"), ("benjamini_hochberg", "fdr_bh")])
def test_corrections_equal_statsmodels(ours, theirs):
    adjust = getattr(stats, ours)
    rows = np.random.default_rng(2).random((20, 12)) ** 3
    rows[0, :4] = rows[0, 0]
    expected = np.stack([multipletests(row, method=theirs)[1] for row in rows])
    np.testing.assert_allclose(adjust(rows), expected, rtol=1e-12)
    np.testing.assert_allclose(adjust(rows[3]), expected[3], rtol=1e-12)


def test_corrections_published_values():
    # Benjamini and Hochberg (1995), section 3: 15 tests, 4 rejected by theirs at 0.05.
    p = np.array([.0001, .0004, .0019, .0095, .0201, .0278, .0298, .0344, .0459, .3240,
                  .4262, .5719, .6528, .7590, 1.0])  # fmt: skip
    assert (stats.benjamini_hochberg(p) <= 0.05).sum() == 4
    assert (stats.holm(p) <= 0.05).sum() == 3


def test_corrections_of_none_and_one():
    for adjust in (stats.holm, stats.benjamini_hochberg):
        assert adjust(np.zeros(0)).shape == (0,)
        assert adjust(np.array([0.3])).tolist() == [0.3]


def test_above_chance():
    correct = np.array([True] * 40 + [False] * 60)
    assert stats.above_chance(correct, 0.25)
    assert not stats.above_chance(correct, 0.35)
    assert not stats.above_chance(np.zeros(0, bool), 0.0)
    assert not stats.above_chance(np.array([True]), 0.25)


def test_tests_of_means_equal_scipy():
    values = np.random.default_rng(3).normal(0.3, 1.0, (25, 40))
    expected = scipy.stats.ttest_1samp(values, 0).pvalue
    np.testing.assert_allclose(stats.mean_p_values(values), expected, rtol=1e-12)


def test_tests_of_means_say_nothing_of_one_item_or_of_zeros():
    assert stats.mean_p_values(np.array([[2.0, 0.0]])).tolist() == [1, 1]
    assert stats.mean_p_values(np.zeros((5, 2))).tolist() == [1, 1]
    assert stats.mean_p_values(np.full((5, 1), 2.0)).tolist() == [0]


@pytest.mark.parametrize("n", [2, 5, 12])
def test_sign_flips_of_few_items_are_all_tried(n):
    values = np.random.default_rng(n).normal(0.5, 1, (n, 3))
    mine = stats.sign_flip_p_values(values, seed=0)
    for column in range(3):
        theirs = scipy.stats.permutation_test(
            (values[:, column],), np.mean, permutation_type="samples", n_resamples=np.inf,
            vectorized=False,
        ).pvalue  # fmt: skip
        assert mine[column] == pytest.approx(min(1.0, theirs))


def test_sign_flips_of_many_items_are_near_the_exact_test():
    values = np.random.default_rng(0).normal(0.3, 1, (17, 2))
    signs = np.array(list(itertools.product([-1, 1], repeat=17)))
    exact = np.mean(np.abs(signs @ values) >= np.abs(values.sum(axis=0)) - 1e-12, axis=0)
    mine = stats.sign_flip_p_values(values, seed=0)
    np.testing.assert_allclose(mine, exact, atol=4 * np.sqrt(0.25 / 10_000))
    np.testing.assert_array_equal(mine, stats.sign_flip_p_values(values, seed=0))
    assert stats.sign_flip_p_values(np.full((40, 1), 1.0), seed=0)[0] == 1 / 10_001


def test_sign_flips_of_what_is_not_there():
    nothing = stats.sign_flip_p_values(np.zeros((5, 1)), seed=0)
    assert nothing.tolist() == [1.0]
    some = np.array([[1.0, 1.0], [2.0, 2.0], [np.nan, 0.0]])
    one, other = stats.sign_flip_p_values(some, seed=0)
    assert one == other == 0.5


def score_p(lost: int, gained: int, n: int, margin: float) -> float:
    return float(score_p_values(np.array(lost), np.array(gained), np.array(n), margin))


def by_search(lost: int, gained: int, n: int, margin: float) -> float:
    """The score test with the discordant probabilities searched for under the hypothesis."""

    def surprise(gains: float) -> float:
        cells = np.array([gains + margin, gains, 1 - 2 * gains - margin])
        counts = np.array([lost, gained, n - lost - gained])
        return -float(np.sum(np.where(counts > 0, counts * np.log(np.maximum(cells, 1e-300)), 0)))

    top = (1 - margin) / 2
    found = optimize.minimize_scalar(surprise, bounds=(0, top), options={"xatol": 1e-12})
    gains = min((0.0, float(found.x), top), key=surprise)
    spread = np.sqrt(n * (2 * gains + margin * (1 - margin)))
    return float(norm.cdf((lost - gained - n * margin) / spread))


def test_a_published_trial():
    """Tango 1998, section 5: 43 of 44 pairs succeed with both lenses, one with the old alone."""
    assert score_p(1, 0, 44, 0.1) == pytest.approx(0.044, abs=5e-4)
    assert norm.ppf(score_p(1, 0, 44, 0.1)) == pytest.approx(-1.709, abs=1e-3)


@pytest.mark.parametrize("counts", [(0, 0, 60), (3, 1, 50), (0, 5, 40), (12, 12, 80)])
@pytest.mark.parametrize("margin", [0.02, 0.2])
def test_the_score_test_is_that_of_a_search(counts, margin):
    lost, gained, n = counts
    expected = by_search(lost, gained, n, margin)
    assert score_p(lost, gained, n, margin) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("n", [20, 60, *in_long_runs((150,))])
@pytest.mark.parametrize("gains", [0.0, 0.1, 0.4])
def test_a_loss_of_the_margin_is_rarely_called_none(n, gains):
    """Over all outcomes, weighted by their exact probability: no simulation."""
    margin, level = 0.05, 0.05
    lost, gained = (each.ravel() for each in np.meshgrid(np.arange(n + 1), np.arange(n + 1)))
    some = lost + gained <= n
    lost, gained = lost[some], gained[some]
    called = score_p_values(lost, gained, np.full(len(lost), n), margin) < level
    chances = [gains + margin, gains, 1 - 2 * gains - margin]
    outcomes = np.stack([lost, gained, n - lost - gained], axis=1)
    wrong = float(multinomial.pmf(outcomes, n, chances)[called].sum())
    assert wrong <= 0.06


def test_the_least_loss_that_can_be_excluded_is_just_excluded_and_none_without_items():
    least = excludable_loss(80, 0.01)
    assert score_p(0, 0, 80, least) == pytest.approx(0.01, rel=1e-9)
    assert score_p(0, 0, 0, 0.05) == 1.0
    assert no_loss_of_nats_p_values(np.zeros((0, 2))) == pytest.approx(1.0)


LOSSES = {
    "symmetric": lambda rng, n: 0.1 + 0.3 * rng.normal(size=n),
    "exponential": lambda rng, n: 0.1 * rng.exponential(size=n),
    "rare": lambda rng, n: 1.0 * (rng.random(n) < 0.1),
    "skewed": lambda rng, n: rng.gamma(0.3, 0.1 / 0.3, size=n),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("level", [0.05, 0.005])
def test_a_mean_loss_of_the_margin_is_rarely_called_none_whatever_its_tail(name, level):
    """A t-test says so of 13 of 100 skewed samples of 40 at a level of 5, and of 3.7 at 0.2."""
    sets, rng = data_sets(2000), np.random.default_rng(5)
    losses = np.stack([LOSSES[name](rng, 40) for _ in range(sets)], axis=1)
    # what clipping takes off the mean is put back, so that its mean is the margin
    losses = losses + 0.1 - np.clip(LOSSES[name](rng, 200_000), -1, 1).mean()
    called = no_loss_of_nats_p_values(losses) < level
    assert called.sum() <= most_errors(sets, level)


def test_no_loss_is_found_where_there_is_none():
    quiet = 0.05 * np.random.default_rng(1).normal(size=(100, 20))
    assert (no_loss_of_nats_p_values(quiet) < 0.001).all()
    assert np.isnan(no_loss_of_nats_p_values(np.full((10, 1), np.nan))).all()
    assert (no_loss_of_nats_p_values(np.full((50, 1), 3.0)) == 1).all()


def test_bets_are_those_of_the_formula():
    losses = np.random.default_rng(2).normal(0.0, 0.2, size=12)
    bets = [k / 20 / 0.9 for k in range(1, 21)]
    capital = np.mean([np.prod(1 - bet * (losses - 0.1)) for bet in bets])
    assert float(no_loss_of_nats_p_values(losses[:, None])[0]) == pytest.approx(1 / capital)


def table(rng: np.random.Generator, n: int, loss: float, layers: int, tasks: int) -> pd.DataFrame:
    """Effects of layers of which each loses the same share of the items, and as many nats."""
    made = []
    for task in range(tasks):
        lost = rng.binomial(n, loss, size=layers)
        nats = np.clip(loss * 2 + 0.2 * rng.normal(size=(n, layers)), -1, 1)
        made.append(
            pd.DataFrame(
                {
                    "task": str(task),
                    "layer": np.arange(layers),
                    "p_no_loss": score_p_values(lost, 0 * lost, np.full(layers, n)),
                    "p_no_loss_nats": no_loss_of_nats_p_values(nats),
                }
            )
        )
    return pd.concat(made)


@pytest.mark.long
def test_layers_that_lose_what_matters_are_rarely_named():
    """With every one of twelve layers at the margin, any that is named is named falsely."""
    sets, rng = data_sets(400), np.random.default_rng(3)
    named = sum(min(no_loss(table(rng, 200, 0.05, 12, 1))) < 0.05 for _ in range(sets))
    assert named <= most_errors(sets, 0.05)


def test_layers_that_lose_nothing_are_named_with_items_enough():
    p = no_loss(table(np.random.default_rng(4), 400, 0.0, 12, 3))
    assert max(p) < 0.05
    few = no_loss(table(np.random.default_rng(4), 24, 0.0, 12, 3))
    assert min(few) > 0.05


def test_one_task_that_loses_is_enough_to_be_held_back():
    calm, harmed = (table(np.random.default_rng(6), 400, loss, 5, 1) for loss in (0.0, 0.2))
    both = pd.concat([calm, harmed.assign(task="harmed")])
    assert min(no_loss(both)) > 0.05
    assert max(no_loss(calm)) < 0.05
    # a layer that was changed in one task alone
    assert no_loss(pd.concat([calm, calm.assign(task="other").query("layer > 0")]))[0] == 1.0


def test_nats_alone_hold_a_layer_back():
    calm = table(np.random.default_rng(7), 400, 0.0, 3, 1)
    assert no_loss(calm.assign(p_no_loss_nats=[0.9, 1e-9, np.nan]))[0] > 0.05
    assert no_loss(calm.assign(p_no_loss=[np.nan, 1e-9, 1e-9]))[0] == 1.0


def test_no_loss_is_not_concluded_where_whole_clusters_lose():
    """40 clusters of 5, one in twenty of which loses all; a few single answers flip."""
    rng = np.random.default_rng(0)
    codes = np.repeat(np.arange(40), 5)
    clusters = Clusters.from_labels(codes.tolist())
    claimed, n_sets = 0, 100
    for _ in range(n_sets):
        lost = (rng.random((40, 12)) < 0.05)[codes].astype(float)
        flipped = rng.choice([-1.0, 0.0, 1.0], p=[0.005, 0.99, 0.005], size=lost.shape)
        p = no_loss_p_values(np.clip(lost + flipped, -1, 1), 0.05, clusters)
        claimed += (stats.holm(p) < 0.05).any()
    assert claimed <= 5


def test_mcnemar_arrays_equal_single_tests():
    b, c = np.array([[0, 3], [9, 1]]), np.array([[0, 1], [2, 12]])
    found = stats.mcnemar_p_values(b, c)
    expected = [
        [stats.mcnemar_exact(int(x), int(y)) for x, y in zip(*rows, strict=True)]
        for rows in zip(b, c, strict=True)
    ]
    np.testing.assert_array_equal(found, expected)


def test_exact_interval_published_values():
    # Newcombe (1998), Statistics in Medicine 17, 857-872, table I: method 5.
    for successes, n, low, high in [(81, 263, 0.2527, 0.3676), (15, 148, 0.0578, 0.1617)]:
        found = stats.exact_interval(successes, n)
        assert (round(found.low, 4), round(found.high, 4)) == (low, high)


@pytest.mark.parametrize(("lost", "gained", "loss"), [(7, 2, 0.075), (0, 3, 0.05), (12, 1, 0.2)])
def test_gains_beside_a_loss_are_the_likeliest(lost: int, gained: int, loss: float) -> None:
    n = 60

    def unlikely(share: float) -> float:
        rates = np.array([share + loss, share, 1 - 2 * share - loss])
        return -float(scipy.special.xlogy([lost, gained, n - lost - gained], rates).sum())

    best = optimize.minimize_scalar(unlikely, bounds=(1e-12, (1 - loss) / 2), method="bounded",
                           options={"xatol": 1e-10}).x  # fmt: skip
    found = gains_beside_loss(np.array([lost]), np.array([gained]), np.array([n]), loss)
    assert found[0] == pytest.approx(best, abs=1e-5)
