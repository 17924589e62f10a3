"""Sequential evidence: valid at any time by enumeration, and equal to slow references."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy.integrate import quad

from layerwise.stats.inference import holm, mcnemar_p_values
from layerwise.stats.items.clusters import Clusters
from layerwise.stats.sequential.confidence import N_STEPS, confidence_bounds, confidence_sequence
from layerwise.stats.sequential.evidence import (
    majority_evidence,
    mean_above_evidence,
    mean_below_evidence,
)
from layerwise.stats.sequential.race import first_times, rejection_items, suprema
from layerwise.stats.share_tests.equivalence import N_BETS, log_evidence_below

LEVEL = 0.05
EXACT = 1e-10


def every_sequence(values: list[float], n: int) -> np.ndarray:
    """All sequences of so many values, a column each."""
    return np.array(list(product(values, repeat=n))).T


def chances(sequences: np.ndarray, of_value: dict[float, float]) -> np.ndarray:
    """Probability of each sequence of independent values."""
    return np.prod(np.vectorize(of_value.__getitem__)(sequences), axis=0)


def some_clusters(sizes: list[int]) -> Clusters:
    return Clusters.from_labels([f"c{i}" for i, size in enumerate(sizes) for _ in range(size)])


# Distributions on -1, 0, 1 with their means.
OF_MEAN = [
    ({-1.0: 0.25, 0.0: 0.5, 1.0: 0.25}, 0.0),
    ({-1.0: 0.5, 0.0: 0.0, 1.0: 0.5}, 0.0),
    ({-1.0: 0.0, 0.0: 0.9, 1.0: 0.1}, 0.1),
    ({-1.0: 0.6, 0.0: 0.1, 1.0: 0.3}, -0.3),
]


@pytest.mark.parametrize(("distribution", "mean"), OF_MEAN)
def test_expected_evidence_on_a_mean_is_1_at_every_time(distribution, mean):
    sequences = every_sequence([-1.0, 0.0, 1.0], 7)
    weights = chances(sequences, distribution)
    for evidence in (
        mean_above_evidence(sequences, mean, -1.0),
        mean_below_evidence(sequences, mean, 1.0),
    ):
        assert np.exp(evidence) @ weights == pytest.approx(np.ones(7), abs=EXACT)


def test_expected_evidence_is_below_1_inside_the_null():
    sequences = every_sequence([-1.0, 0.0, 1.0], 6)
    weights = chances(sequences, {-1.0: 0.3, 0.0: 0.5, 1.0: 0.2})
    expected = np.exp(mean_above_evidence(sequences, 0.0, -1.0)) @ weights
    assert (expected < 1).all()
    assert (np.diff(expected) < 0).all()
    assert (np.exp(mean_below_evidence(sequences, 0.0, 1.0)) @ weights > 1).all()


@pytest.mark.parametrize("lost", [0.5, 0.4, 0.1])
def test_expected_evidence_of_a_majority_is_at_most_1(lost):
    sequences = every_sequence([-1, 0, 1], 7)
    weights = chances(sequences, {-1: 0.6 * (1 - lost), 0: 0.4, 1: 0.6 * lost})
    expected = np.exp(majority_evidence(sequences)) @ weights
    if lost == 0.5:
        assert expected == pytest.approx(np.ones(7), abs=EXACT)
    else:
        assert (expected < 1).all()


@pytest.mark.parametrize("level", [0.5, 0.2, 0.05])
def test_evidence_at_the_worst_moment_is_an_e_value(level):
    """Stop when the evidence first reaches 1 / level; if it never does, at the end."""
    sequences = every_sequence([-1, 1], 12)
    weights = np.full(sequences.shape[1], 0.5**12)
    for evidence in (
        majority_evidence(sequences),
        mean_above_evidence(sequences.astype(float), 0.0, -1.0),
    ):
        reached = evidence >= -np.log(level)
        stop = np.where(reached.any(axis=0), reached.argmax(axis=0), 11)
        stopped = evidence[stop, np.arange(len(stop))]
        assert np.exp(stopped) @ weights == pytest.approx(1.0, abs=EXACT)
        assert reached.any(axis=0) @ weights <= level


def test_a_test_of_fixed_items_is_not_valid_at_the_worst_moment():
    sequences = every_sequence([-1, 1], 12)
    lost = (sequences > 0).cumsum(axis=0)
    gained = (sequences < 0).cumsum(axis=0)
    p = np.where(lost > gained, mcnemar_p_values(lost, gained) / 2, 1.0)
    assert (p <= LEVEL)[-1].mean() <= LEVEL < (p <= LEVEL).any(axis=0).mean()


def test_items_of_a_cluster_are_bet_on_as_one():
    clusters = some_clusters([2, 1, 3, 2])
    of_cluster = every_sequence([-1, 1], 4)
    alike = of_cluster[clusters.codes]
    weights = np.full(alike.shape[1], 0.5**4)
    for evidence, alone in (
        (majority_evidence(alike, clusters), majority_evidence(alike)),
        (
            mean_above_evidence(alike.astype(float), 0.0, -1.0, clusters),
            mean_above_evidence(alike.astype(float), 0.0, -1.0),
        ),
    ):
        assert np.exp(evidence) @ weights == pytest.approx(np.ones(4), abs=EXACT)
        assert (np.exp(alone) @ weights).max() > 1.2  # what depends is taken for independent


def slow_above(values: list[float], bound: float, low: float) -> list[float]:
    """Capital of each bet, item by item, and the log of their mean."""
    capital = [1.0] * N_BETS
    logs = []
    for value in values:
        for k in range(N_BETS):
            capital[k] *= 1 + (k + 1) / N_BETS / (bound - low) * (value - bound)
        logs.append(float(np.log(2 / 3 * np.mean(capital) + 1 / 3 * capital[-1])))
    return logs


@pytest.mark.parametrize(("bound", "low"), [(0.0, -1.0), (0.05, -1.0), (0.3, 0.0)])
def test_evidence_on_a_mean_equals_bets_item_by_item(bound, low):
    values = np.random.default_rng(0).uniform(low, 1.0, (40, 3))
    fast = mean_above_evidence(values, bound, low)
    slow = np.array([slow_above(column.tolist(), bound, low) for column in values.T]).T
    assert fast == pytest.approx(slow, abs=1e-9)
    mirrored = mean_below_evidence(-values, -bound, -low)
    assert mirrored == pytest.approx(slow, abs=1e-9)


def test_a_bound_of_each_column_equals_columns_alone():
    values = np.random.default_rng(1).uniform(-1, 1, (20, 3))
    bounds = np.array([-0.5, 0.0, 0.7])
    together = mean_above_evidence(values, bounds, -1.0)
    alone = [mean_above_evidence(values[:, [i]], bounds[i], -1.0)[:, 0] for i in range(3)]
    assert together == pytest.approx(np.stack(alone, axis=1), abs=EXACT)


def test_many_columns_in_chunks_equal_columns_alone(monkeypatch):
    values = np.random.default_rng(1).uniform(-1, 1, (20, 7))
    whole = mean_above_evidence(values, 0.1, -1.0)
    monkeypatch.setattr("layerwise.stats.sequential.evidence._AT_ONCE", 2 * N_BETS * 20)
    assert mean_above_evidence(values, 0.1, -1.0) == pytest.approx(whole, abs=EXACT)


@pytest.mark.parametrize("sizes", [[1] * 30, [3, 1, 2, 4] * 3])
def test_evidence_of_all_items_is_the_fixed_tests_and_a_third_on_the_largest_bet(sizes):
    clusters = some_clusters(sizes)
    losses = np.random.default_rng(2).normal(0.05, 0.6, (len(clusters.codes), 5))
    fixed = log_evidence_below(losses, 0.1, 1.0, clusters)
    clipped = np.clip(losses, -1, 1)
    last = mean_below_evidence(clipped, 0.1, 1.0, clusters)[-1]
    shares = clusters.sums(clipped - 0.1) / max(sizes) / 0.9
    largest = np.prod(1 - np.minimum(shares, 1.0), axis=0)
    assert np.exp(last) == pytest.approx(2 / 3 * np.exp(fixed) + 1 / 3 * largest, rel=1e-9)


def test_majority_evidence_equals_the_integral_over_jeffreys_prior():
    for lost, gained in ((0, 0), (1, 0), (0, 3), (7, 2), (3, 9), (30, 4)):
        net = np.array([[1]] * lost + [[-1]] * gained + [[0]])
        fast = float(np.exp(majority_evidence(net)[-1, 0]))

        # p = sin(angle) ** 2 makes Jeffreys' prior uniform in the angle
        def likelihood_ratio(angle: float, lost: int = lost, gained: int = gained) -> float:
            p = np.sin(angle) ** 2
            return (2 * p) ** lost * (2 - 2 * p) ** gained

        slow = quad(likelihood_ratio, np.pi / 4, np.pi / 2, epsabs=1e-12)[0] / (np.pi / 4)
        assert fast == pytest.approx(slow, rel=1e-7)


def test_both_majorities_together_are_krichevsky_and_trofimovs_mixture():
    """Their estimator gives each next value the probability (count + 1/2) / (n + 1)."""
    values = np.random.default_rng(3).choice([-1, 1], size=40, p=[0.3, 0.7])
    counts, log_probability, expected = {-1: 0, 1: 0}, 0.0, []
    for n, value in enumerate(values.tolist()):
        log_probability += np.log((counts[value] + 0.5) / (n + 1))
        counts[value] += 1
        expected.append(log_probability + (n + 1) * np.log(2))
    one, other = (majority_evidence(sign * values[:, None])[:, 0] for sign in (1, -1))
    assert np.logaddexp(one, other) - np.log(2) == pytest.approx(np.array(expected), abs=1e-9)


def test_a_unit_has_one_vote_and_what_does_not_change_has_none():
    clusters = some_clusters([3, 2, 1])
    net = np.array([[1, -1, 0], [1, -1, 0], [-1, 0, 0], [1, 0, 0], [-1, -2, 0], [4, -1, 0]])
    votes = np.array([[1, -1, 0], [0, -1, 0], [1, -1, 0]])
    assert majority_evidence(net, clusters) == pytest.approx(majority_evidence(votes))
    assert majority_evidence(votes)[:, 2] == pytest.approx(np.zeros(3), abs=EXACT)


@pytest.mark.parametrize(
    ("values", "bound", "message"),
    [
        ([[0.0], [np.nan]], 0.0, "Some values are nan or below -1"),
        ([[0.0], [-1.5]], 0.0, "Some values are nan or below -1"),
        ([[0.0]], -1.0, "expected more than the least value, -1"),
    ],
)
def test_what_cannot_be_bet_on_is_refused(values, bound, message):
    with pytest.raises(ValueError, match=message):
        mean_above_evidence(np.array(values), bound, -1.0)


def test_confidence_sequence_holds_the_means_that_no_bet_has_rejected():
    values = np.random.default_rng(4).choice([-1.0, 0.0, 1.0], size=(30, 2), p=[0.1, 0.3, 0.6])
    low, high = confidence_sequence(values, -1.0, 1.0)
    grid = np.linspace(-1, 1, N_STEPS + 1)
    least = np.log(40)
    for column in range(2):
        one = values[:, [column]]
        for mean in grid[1:-1]:
            above = suprema(mean_above_evidence(one, mean, -1.0))[:, 0] >= least
            below = suprema(mean_below_evidence(one, mean, 1.0))[:, 0] >= least
            assert ((low[:, column] >= mean - 1e-9) == above).all()
            assert ((high[:, column] <= mean + 1e-9) == below).all()
    assert (np.diff(low, axis=0) >= 0).all()
    assert (np.diff(high, axis=0) <= 0).all()
    assert low[-1].min() > 0


def test_confidence_sequence_misses_at_any_time_in_at_most_5_percent():
    sequences = every_sequence([-1.0, 0.0, 1.0], 6)
    for distribution, mean in OF_MEAN:
        low, high = confidence_sequence(sequences, -1.0, 1.0)
        missed = ((low > mean + EXACT) | (high < mean - EXACT)).any(axis=0)
        assert missed @ chances(sequences, distribution) <= LEVEL


def test_bounds_at_one_time_are_those_of_the_sequence():
    clusters = some_clusters([1, 2, 1, 3] * 6)
    values = np.clip(np.random.default_rng(5).normal(0.4, 0.7, (42, 4)), -1, 1)
    units = np.array([1, 9, 16, 24])
    for own in (clusters, None):
        sequence = confidence_sequence(values, -1.0, 1.0, own)
        bounds = confidence_bounds(values, units, -1.0, 1.0, own)
        for whole, at in zip(sequence, bounds, strict=True):
            assert at == pytest.approx(whole[units - 1, np.arange(4)], abs=EXACT)


def test_all_right_bounds_come_near_the_end_of_the_range():
    ones = np.ones((400, 1))
    low, high = confidence_sequence(ones, -1.0, 1.0)
    assert high[-1, 0] == 1.0
    assert 0.9 < low[-1, 0] < 1.0
    assert low[0, 0] < -0.9  # one item says little


def slow_rejections(evidence: np.ndarray, level: float, n_tests: int | None) -> list[float]:
    """After every item Holm's method by the largest evidence of each hypothesis so far."""
    first = [np.inf] * evidence.shape[1]
    for t in range(len(evidence)):
        p = np.array([min(1.0, 1 / max(np.exp(evidence[: t + 1, h])))
                      for h in range(evidence.shape[1])])  # fmt: skip
        for h, adjusted in enumerate(holm(p, n_tests)):
            if adjusted < level and first[h] == np.inf:
                first[h] = t + 1
    return first


@pytest.mark.parametrize("n_tests", [None, 20])
def test_rejections_equal_holm_after_every_item(n_tests):
    rng = np.random.default_rng(6)
    drift = np.linspace(-0.1, 0.5, 8)
    evidence = (drift + 0.6 * rng.standard_normal((40, 8))).cumsum(axis=0)
    fast = rejection_items(evidence, LEVEL, n_tests)
    assert fast.tolist() == slow_rejections(evidence, LEVEL, n_tests)
    assert np.isinf(fast).any()
    assert (fast < 40).any()


def test_one_hypothesis_is_rejected_where_its_evidence_passes_1_over_the_level():
    evidence = np.log(np.array([[1.0], [19.9], [3.0], [20.1], [1.0]]))
    assert rejection_items(evidence).tolist() == [4.0]
    assert np.isinf(rejection_items(evidence, n_tests=2)).all()
    assert first_times(np.zeros((3, 2), dtype=bool)).tolist() == [np.inf, np.inf]


def test_false_rejections_of_a_family_are_at_most_the_level_by_enumeration():
    """Two hypotheses that are both true, on the same items: one bet each way."""
    sequences = every_sequence([-1, 1], 8)
    false = 0
    for column in sequences.T:
        both = np.stack([column, -column], axis=1)
        false += bool(np.isfinite(rejection_items(majority_evidence(both), 0.2)).any())
    assert 0 < false / sequences.shape[1] <= 0.2
