"""Tests of no loss: against published and brute-force values, and how often they are wrong."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import optimize
from scipy.stats import multinomial, norm

from layerwise import stats
from layerwise.analyses.ablation.findings import no_loss
from layerwise.stats.items.clusters import Clusters
from layerwise.stats.share_tests.equivalence import (
    excludable_loss,
    no_loss_of_nats_p_values,
    no_loss_p_values,
    score_p_values,
)
from tests.cases import data_sets, most_errors


def p_of(lost: int, gained: int, n: int, margin: float) -> float:
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
    assert p_of(1, 0, 44, 0.1) == pytest.approx(0.044, abs=5e-4)
    assert norm.ppf(p_of(1, 0, 44, 0.1)) == pytest.approx(-1.709, abs=1e-3)


@pytest.mark.parametrize("counts", [(0, 0, 60), (3, 1, 50), (0, 5, 40), (12, 12, 80), (2, 0, 200)])
@pytest.mark.parametrize("margin", [0.02, 0.05, 0.2])
def test_the_score_test_is_that_of_a_search(counts, margin):
    lost, gained, n = counts
    expected = by_search(lost, gained, n, margin)
    assert p_of(lost, gained, n, margin) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("n", [20, 60, 150])
@pytest.mark.parametrize("gains", [0.0, 0.02, 0.1, 0.4])
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


def test_without_items_nothing_is_excluded():
    assert p_of(0, 0, 0, 0.05) == 1.0
    assert no_loss_of_nats_p_values(np.zeros((0, 2))) == pytest.approx(1.0)


def test_the_least_loss_that_can_be_excluded_is_just_excluded():
    least = excludable_loss(80, 0.01)
    assert p_of(0, 0, 80, least) == pytest.approx(0.01, rel=1e-9)


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


def test_layers_that_lose_what_matters_are_rarely_named():
    """With every one of twelve layers at the margin, any that is named is named falsely."""
    sets, rng = data_sets(600), np.random.default_rng(3)
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
    clusters = Clusters.of(codes.tolist())
    claimed, n_sets = 0, 100
    for _ in range(n_sets):
        lost = (rng.random((40, 12)) < 0.05)[codes].astype(float)
        flipped = rng.choice([-1.0, 0.0, 1.0], p=[0.005, 0.99, 0.005], size=lost.shape)
        p = no_loss_p_values(np.clip(lost + flipped, -1, 1), 0.05, clusters)
        claimed += (stats.holm(p) < 0.05).any()
    assert claimed <= 5
