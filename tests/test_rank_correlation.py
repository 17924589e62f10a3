"""Rank correlations over layers: what their intervals cover, where ranks tie and where not."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import permutation_test, rankdata, spearmanr

from layerwise import stats
from layerwise.stats.families.rank_correlation import RankCorrelation, rank_correlation, unrelated_p
from layerwise.stats.inference import two_sided_p
from tests.cases import data_sets, in_long_runs, most_errors

N_RESAMPLES = 300


def resample(rng: np.random.Generator, *values: np.ndarray) -> list[np.ndarray]:
    n = len(values[0])
    counts = np.concatenate([np.ones((1, n)), rng.multinomial(n, np.full(n, 1 / n), N_RESAMPLES)])
    return [np.round(counts @ each / n, 6) for each in values]


def one_needed_layer(rng: np.random.Generator, n_layers: int) -> np.ndarray:
    """One layer is needed, the others cost less than a point, each another part of it."""
    return np.concatenate([[0.9], 0.01 * rng.permutation(n_layers - 1) / (n_layers - 1)])


def one_and_nothing(rng: np.random.Generator, n_layers: int) -> np.ndarray:
    return np.concatenate([[0.9], np.zeros(n_layers - 1)])


def graded_losses(rng: np.random.Generator, n_layers: int) -> np.ndarray:
    return np.clip(np.linspace(0, 0.6, n_layers) + 0.15 * rng.standard_normal(n_layers), 0, 0.95)


PROFILES = (
    (one_needed_layer, one_needed_layer),
    (one_and_nothing, one_needed_layer),
    (graded_losses, graded_losses),
)


@pytest.mark.parametrize(("one", "other"), PROFILES)
@pytest.mark.parametrize(("n_layers", "n"), [(4, 24), (30, 24), *in_long_runs((8, 100), (30, 200))])
def test_intervals_cover_the_correlation_of_the_true_means(one, other, n_layers, n):
    """Percentiles of a plain bootstrap miss it in up to 99 % of the data sets."""
    sets, missed = data_sets(60), 0
    for seed in range(sets):
        rng = np.random.default_rng([seed, n_layers, n])
        means = one(rng, n_layers), other(rng, n_layers)
        lost = rng.random((n, n_layers)) < means[0]
        risen = means[1] * rng.gamma(4, 0.25, (n, n_layers)) + 0.02 * rng.standard_normal(
            (n, n_layers)
        )
        truth = stats.rank_correlations(*(mean[None] for mean in means))[0]
        found = rank_correlation(*resample(rng, lost, risen), n, rng)
        # where the sample itself has no ranks there is nothing to be wrong about
        missed += not (np.isnan(found.estimate) or found.low <= truth <= found.high)
    assert missed <= most_errors(sets)


def test_ranks_that_no_resample_changes_are_not_sure():
    """One layer takes all, and of the seven others one method says nothing."""
    lost = np.tile((np.arange(8) == 0).astype(float), (100, 1))
    read = np.tile(np.concatenate([[0.9], np.linspace(0, 1e-3, 7)]), (100, 1))
    rng = np.random.default_rng(0)
    found = rank_correlation(*resample(rng, lost, read), 100, rng)
    assert found.estimate == pytest.approx(spearmanr(lost[0], read[0]).statistic)
    assert found.low < 0.2
    assert found.high == 1.0
    assert found.p > 0.05


@pytest.mark.parametrize(
    ("n_layers", "ties"), [(5, True), (30, False), *in_long_runs((5, False), (30, True))]
)
def test_rankings_of_no_relation_are_told_as_related_as_rarely_as_stated(n_layers, ties):
    """However well the items know the means; they alone are sure of most such correlations."""
    sets, sure, of_items = data_sets(200), 0, 0
    for seed in range(sets):
        rng = np.random.default_rng([seed, n_layers])
        cost, turn = rng.beta(1, 3, n_layers), rng.random(n_layers)
        cost = np.where(rng.random(n_layers) < 0.5 * ties, 0, cost)
        lost = rng.random((100, n_layers)) < cost
        turned = turn + 0.02 * rng.standard_normal((100, n_layers))
        draws = resample(rng, lost, turned)
        found = rank_correlation(*draws, 100, rng)
        sure += found.p < 0.05
        of_items += found.low > 0 or found.high < 0
    assert sure <= most_errors(sets)
    assert of_items > sets / 3


def test_p_of_unrelated_rankings_is_scipys():
    rng = np.random.default_rng(2)
    for n in (4, 6, 12):
        one, other = np.round(rng.random(n), 1), rng.random(n)
        centred = rankdata(other) - (n + 1) / 2
        expected = permutation_test(
            (rankdata(one),), lambda ranks, axis, along=centred: np.abs(ranks @ along),
            permutation_type="pairings", n_resamples=9999, alternative="greater", rng=rng,
            vectorized=True,
        ).pvalue  # fmt: skip
        assert unrelated_p(one, other, rng) == pytest.approx(expected, abs=1e-9 if n < 7 else 0.03)
    rising = np.arange(4.0)
    assert unrelated_p(rising, rising, rng) == 2 / 24  # four layers are soon alike by luck


def test_means_far_apart_have_the_percentiles_of_a_plain_bootstrap_and_their_reflection():
    rng = np.random.default_rng(1)
    one = np.linspace(0, 5, 8) + rng.standard_normal((200, 8))
    other = np.linspace(0, 5, 8)[[1, 0, 2, 3, 5, 4, 6, 7]] + rng.standard_normal((200, 8))
    draws = resample(rng, one, other)
    rho = np.array([spearmanr(a, b).statistic for a, b in zip(*draws, strict=True)])
    low, high = np.quantile(rho[1:], [0.025, 0.975])
    found = rank_correlation(*draws, 200, rng, sampled=(False, False))
    assert found.low == pytest.approx(min(low, 2 * rho[0] - high), abs=0.03)
    assert found.high == pytest.approx(min(1.0, max(high, 2 * rho[0] - low)), abs=0.03)
    assert found.p == two_sided_p(rho[1:])
    smoothed = rank_correlation(*draws, 200, rng)
    assert smoothed.low == pytest.approx(found.low, abs=0.06)


def test_without_ranks_or_items_there_is_no_interval():
    rng, flat = np.random.default_rng(0), np.zeros((10, 8))
    rising = np.tile(np.arange(8.0), (10, 1))
    nothing = rank_correlation(flat, rising, 10, rng)
    assert np.isnan(nothing[:3]).all()
    assert nothing.p == 1.0
    alone = rank_correlation(rising, rising, 1, rng)
    assert (alone.estimate, alone.p) == (1.0, 1.0)
    assert np.isnan([alone.low, alone.high]).all()
    undefined = np.concatenate([rising[:5], np.full((5, 8), np.nan)])
    assert rank_correlation(undefined, rising, 10, rng)[1:3] == (-1.0, 1.0)
    assert RankCorrelation._fields == ("estimate", "low", "high", "p")


def test_correlations_are_scipys():
    rng = np.random.default_rng(3)
    one, other = rng.integers(0, 4, (20, 9)).astype(float), rng.normal(size=(20, 9))
    expected = [spearmanr(a, b).statistic for a, b in zip(one, other, strict=True)]
    np.testing.assert_allclose(stats.rank_correlations(one, other), expected, atol=1e-12)
    assert np.isnan(stats.rank_correlations(np.ones((1, 5)), other[:1, :5]))[0]
