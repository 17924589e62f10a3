"""Onsets and moves over checkpoints: outside values, planted truths, and rates of error.

Answers are made up; models are asked in ``test_training``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import binom, norm, ttest_1samp

from layerwise.stats.depth.onset import (
    Excess,
    Onset,
    above_p_values,
    below_p_values,
    depth_trend,
    onset,
)
from layerwise.stats.items.clusters import Clusters
from layerwise.stats.signals.signal import Blind, better_than_blind_p_value

MARGIN, N_STEPS = 0.2, 20
# Few series by day, which a method that is wrong in one of four would not pass.
SERIES = (50, pytest.param(400, marks=pytest.mark.long))


def largest_share(rate: float, n: int) -> float:
    """The share of n series that a rate stays below in 39 of 40 cases."""
    return float(binom.isf(0.025, n, rate)) / n


def series(
    rng: np.random.Generator, accuracy: np.ndarray, floor: float, n: int, shared: float = 0.5
) -> tuple[list[Excess], np.ndarray]:
    """Answers to the same items at each step, of which some are easier at all steps."""
    each = rng.normal(size=(n, len(accuracy)))
    ease = np.sqrt(shared) * rng.normal(size=(n, 1)) + np.sqrt(1 - shared) * each
    right = norm.cdf(ease) < accuracy
    blind = rng.binomial(3, floor, size=right.shape)
    asked = np.full(n, 3)
    exact = [
        max(
            binom.sf(one.sum() - 1, n, floor),
            better_than_blind_p_value(one, Blind(other, asked)),
        )
        for one, other in zip(right.T, blind.T, strict=True)
    ]
    apart = Clusters.singletons(n)
    return [Excess(right - floor, apart), Excess(right - blind / 3, apart)], np.array(exact)


def rising_curve(floor: float, top: float, middle: float, width: float) -> np.ndarray:
    return floor + (top - floor) * norm.cdf((np.arange(N_STEPS) - middle) / width)


def onset_step(accuracy: np.ndarray, floor: float) -> int:
    below = np.flatnonzero(accuracy - floor < MARGIN - 1e-12)
    return int(below[-1]) + 1 if len(below) else 0


def test_the_tests_of_a_step_are_students_and_the_exact_one():
    rng = np.random.default_rng(0)
    values = rng.integers(-1, 2, size=(40, 3)) * 0.9 + [0.0, 0.4, 0.6]
    excess = [Excess(values, Clusters.singletons(40))]
    greater: Any = ttest_1samp(values, MARGIN, alternative="greater")
    expected = greater.pvalue
    found = above_p_values(excess, np.zeros(3), MARGIN)
    over = values.mean(axis=0) > MARGIN
    assert over.any()
    assert found[over] == pytest.approx(expected[over])
    assert (found[~over] == 1).all()
    assert (above_p_values(excess, np.full(3, 0.7), MARGIN) >= 0.7).all()


def test_evidence_against_an_early_start_is_the_mean_over_windows_of_bets_on_them():
    values = np.random.default_rng(1).integers(0, 2, size=(30, 5)).astype(float) * 0.3
    found = below_p_values([Excess(values, Clusters.singletons(30))], MARGIN)
    for start in range(5):
        ends = sorted({min(start + length, 5) for length in (1, 2, 4, 8)})
        bets = np.arange(1, 21) / 20 / (1 - MARGIN)
        means = [values[:, start:end].mean(axis=1) for end in ends]
        capital = [np.mean([np.prod(1 - b * (m - MARGIN)) for b in bets]) for m in means]
        assert found[start] == pytest.approx(min(1.0, 1 / np.mean(capital)))


def test_a_control_that_was_not_measured_everywhere_neither_helps_nor_hinders():
    rng = np.random.default_rng(2)
    excess, exact = series(rng, rising_curve(0.05, 0.95, 8, 1.0), 0.05, 60)
    partly = excess[0].values.copy()
    partly[:, :6] = np.nan
    assert onset([*excess, Excess(partly, excess[0].clusters)], exact, MARGIN) == onset(
        excess, exact, MARGIN
    )


SUDDEN = np.where(np.arange(N_STEPS) < 7, 0.03, 0.95)


@pytest.mark.parametrize(
    ("accuracy", "floor", "expected"),
    [
        (SUDDEN, 0.03, Onset(7, 7, 7)),
        # one unlucky checkpoint moves the bound and not the estimate
        (np.where(np.arange(N_STEPS) == 10, 0.26, SUDDEN), 0.03, Onset(7, 7, 11)),
        (np.full(N_STEPS, 0.9), 0.1, Onset(0, 0, 0)),
        (np.where(np.arange(N_STEPS) < 15, 0.9, 0.1), 0.1, None),  # it is lost again
    ],
)
def test_a_planted_onset_is_found_to_the_checkpoint(accuracy, floor, expected):
    assert onset(*series(np.random.default_rng(3), accuracy, floor, 100), MARGIN) == expected


def test_a_plateau_just_below_what_counts_is_no_beginning():
    steps, rng = np.arange(N_STEPS), np.random.default_rng(1)
    accuracy = np.where(steps < 4, 0.05, np.where(steps < 12, 0.05 + 0.18, 0.9))
    found = [onset(*series(rng, accuracy, 0.05, 60), MARGIN) for _ in range(20)]
    early = [12 - one.estimate for one in found if one is not None]
    assert np.mean(early) <= 0.5


@pytest.mark.parametrize("n_series", SERIES)
@pytest.mark.parametrize(("floor", "n"), [(0.02, 40), (0.25, 60)])
def test_what_never_appears_is_said_to_appear_as_rarely_as_stated(floor, n, n_series):
    rng = np.random.default_rng(6)
    flat = np.full(N_STEPS, floor)
    told = [onset(*series(rng, flat, floor, n), 0.01) is not None for _ in range(n_series)]
    assert np.mean(told) <= largest_share(0.025, n_series)


@pytest.mark.long(
    but=[
        "0.02-accuracy0-30",
        "0.02-accuracy0-300",
        "0.25-accuracy1-300",
        "0.25-accuracy2-300",
        "0.25-accuracy3-30",
        "0.25-accuracy3-300",
        "0.02-accuracy4-300",
    ]
)
@pytest.mark.parametrize("n_series", [30, pytest.param(300, marks=pytest.mark.long)])
@pytest.mark.parametrize(
    ("floor", "accuracy"),
    [
        (0.02, rising_curve(0.02, 0.95, 10, 2.5)),
        (0.25, rising_curve(0.25, 0.95, 10, 2.5)),
        (0.25, np.full(N_STEPS, 0.25 + MARGIN)),  # just there, always
        (0.25, np.where(np.arange(N_STEPS) < 12, 0.25, 0.25 + MARGIN)),  # just there, later
        (0.02, np.where(np.arange(N_STEPS) < 12, 0.02 + MARGIN - 0.02, 0.9)),  # nearly, before
    ],
)
def test_intervals_of_onsets_miss_as_rarely_as_stated(floor, accuracy, n_series):
    rng, truth = np.random.default_rng(7), onset_step(accuracy, floor)
    missed = []
    for _ in range(n_series):
        found = onset(*series(rng, accuracy, floor, 60), MARGIN)
        missed.append(found is not None and not found.low <= truth <= found.high)
    assert np.mean(missed) <= largest_share(0.05, n_series)


def losses(
    rng: np.random.Generator, accuracy: np.ndarray, places: np.ndarray, n: int, flips: float,
    need: float = 0.8, n_layers: int = 6,
) -> np.ndarray:  # fmt: skip
    """One layer is needed, at a place of each step; the others flip answers for nothing."""
    ease = 0.6 * rng.random((n, 1)) + 0.4 * rng.random((n, len(accuracy)))
    right = (np.argsort(np.argsort(ease, axis=0), axis=0) + 0.5) / n < accuracy
    balanced = flips * np.minimum(accuracy, 1 - accuracy)
    drawn = rng.random((n, len(accuracy), n_layers))
    down = drawn < (balanced / accuracy)[:, None]
    up = drawn < (balanced / (1 - accuracy))[:, None]
    lost = np.where(right[:, :, None], down, -up.astype(float))
    step = np.arange(len(accuracy))
    lost[:, step, places] = right & (rng.random(right.shape) < need)
    return lost


HALVES = (np.arange(N_STEPS) >= N_STEPS // 2).astype(float)


def test_a_move_is_the_difference_of_pooled_centres_and_its_bounds_are_what_is_not_rejected():
    places = np.where(HALVES > 0, 4, 1)
    lost = losses(np.random.default_rng(8), np.full(N_STEPS, 0.8), places, 60, 0.2)
    apart = Clusters.singletons(60)
    found = depth_trend(lost, HALVES, apart)
    assert found is not None
    centres = []
    for half in (HALVES == 0, HALVES == 1):
        added = lost[:, half].mean(axis=(0, 1))
        centres.append(added @ np.arange(6) / added.sum())
    assert found.first == pytest.approx(centres[0])
    assert found.change == pytest.approx(centres[1] - centres[0])
    assert found.low < found.change < found.high
    for bound in (found.low, found.high):
        shifted = _centre_difference_p(lost, bound)
        assert shifted == pytest.approx(0.05, abs=1e-6)
    assert found.p == pytest.approx(_centre_difference_p(lost, 0.0))


def _centre_difference_p(lost: np.ndarray, change: float) -> float:
    """scipy's t-test that the centres differ by so much, from the contrast itself."""
    weight, moment = lost.sum(axis=2), lost @ np.arange(lost.shape[2])
    m = weight.mean(axis=0)
    centre = moment.mean(axis=0).sum() / m.sum()
    away = HALVES - (HALVES @ m) / m.sum()
    contrast = (moment - centre * weight) @ away - change * (weight @ away**2)
    tested: Any = ttest_1samp(contrast, 0)
    return float(tested.pvalue)


def test_nothing_is_said_of_a_place_where_layers_cost_nothing():
    assert depth_trend(np.zeros((20, 6, 4)), np.arange(6.0), Clusters.singletons(20)) is None
    assert depth_trend(np.ones((20, 1, 4)), np.zeros(1), Clusters.singletons(20)) is None


@pytest.mark.parametrize("n_series", SERIES)
@pytest.mark.parametrize(("n", "flips"), [(30, 0.1), (100, 0.4)])
def test_what_stays_is_said_to_move_as_rarely_as_stated(n: int, flips: float, n_series: int):
    """Accuracy rises, losses grow with it, other layers flip answers; the place is the same."""
    rng, accuracy = np.random.default_rng(9), np.linspace(0.4, 0.95, N_STEPS)
    places, apart = np.full(N_STEPS, 1), Clusters.singletons(n)
    told = []
    for _ in range(n_series):
        found = depth_trend(losses(rng, accuracy, places, n, flips), HALVES, apart)
        told.append(found is not None and found.p < 0.05)
    assert np.mean(told) <= largest_share(0.05, n_series)


def test_items_that_ask_for_the_same_thing_are_no_further_evidence():
    """Each item four times: p is that of the items alone."""
    lost = losses(np.random.default_rng(10), np.full(N_STEPS, 0.8), np.full(N_STEPS, 2), 25, 0.3)
    alone = depth_trend(lost, HALVES, Clusters.singletons(25))
    clusters = Clusters.from_labels(np.repeat(range(25), 4).tolist())
    four = depth_trend(np.repeat(lost, 4, axis=0), HALVES, clusters)
    assert alone is not None
    assert four is not None
    assert four.p == pytest.approx(alone.p)
    assert four.low == pytest.approx(alone.low)


def test_a_move_of_three_layers_is_found():
    rng = np.random.default_rng(11)
    places = np.where(HALVES > 0, 4, 1)
    found = [
        depth_trend(
            losses(rng, np.full(N_STEPS, 0.8), places, 40, 0.1), HALVES, Clusters.singletons(40)
        )
        for _ in range(20)
    ]
    assert all(one is not None and one.p < 0.05 and one.low > 1 for one in found)
