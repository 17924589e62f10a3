"""Whether shares lost are the same: by plain t-tests at every share, and how often it is wrong."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm, ttest_1samp

from layerwise.analyses.comparison.tables import corrected, pair_rows
from layerwise.stats.depth.joint_null import critical_distance, mixture_p
from layerwise.stats.items.clusters import Clusters
from layerwise.stats.share_tests.same_share import LostOf, share_difference
from tests import weak
from tests.cases import data_sets, in_long_runs, most_errors


def drawn(rng: np.random.Generator, accuracy: float, n: int, taken: float = 0.0) -> LostOf:
    """Answers drawn anew under each of four layers, one of which takes a share to chance."""
    right = rng.random((n, 5)) < accuracy
    hit = rng.random(n) < taken
    right[hit, 1] = rng.random(int(hit.sum())) < 0.25
    intact = right[:, 0].astype(float)
    return LostOf(intact - right[:, 1:].mean(axis=1), intact - 0.25)


def z_of(values: np.ndarray) -> float:
    found = ttest_1samp(values, 0)
    return float(np.sign(found.statistic) * norm.isf(found.pvalue / 2))


@pytest.mark.parametrize("accuracies", [(0.9, 0.6), (0.6, 0.9), (0.8, 0.8)])
def test_p_and_bounds_are_those_of_plain_t_tests_at_every_share(accuracies):
    """Squared length of both contrasts in standard errors, by the inverse of their correlation."""
    rng = np.random.default_rng(1)
    one, other = (drawn(rng, a, 80, taken) for a, taken in zip(accuracies, (0.2, 1), strict=True))
    found = share_difference([one], [other], Clusters.apart(80))
    shares = np.linspace(-0.7, 1.1, 73)
    values = [[each.lost - share * each.above for share in shares] for each in (one, other)]
    z = [[z_of(of_share) for of_share in mine] for mine in values]
    together = np.corrcoef(np.concatenate(values))[:73, 73:]
    lengths = np.empty((73, 73))
    for i in range(73):
        for k in range(73):
            inverse = np.linalg.inv(np.array([[1, together[i, k]], [together[i, k], 1]]))
            pair = np.array([z[0][i], z[1][k]])
            lengths[i, k] = pair @ inverse @ pair
    assert found.p == pytest.approx(mixture_p(lengths.diagonal().min()), rel=0.1)
    kept = lengths <= critical_distance(0.05)
    apart = (shares[None] - shares[:, None])[kept]
    assert [found.low, found.high] == pytest.approx([apart.min(), apart.max()], abs=0.05)


def test_clusters_of_the_same_answers_are_single_items():
    rng = np.random.default_rng(0)
    one, other = drawn(rng, 0.9, 40, 0.1), drawn(rng, 0.8, 40, 0.9)
    twice = [LostOf(*(np.repeat(part, 2) for part in each)) for each in (one, other)]
    clusters = Clusters.of(np.repeat([f"fact {i}" for i in range(40)], 2).tolist())
    found = share_difference([twice[0]], [twice[1]], clusters)
    alone = share_difference([one], [other], Clusters.apart(40))
    assert found == pytest.approx(alone)


def test_what_has_nothing_to_lose_says_nothing():
    rng = np.random.default_rng(0)
    none = LostOf(np.zeros(40), np.full(40, -0.1))
    found = share_difference([drawn(rng, 0.9, 40)], [none], Clusters.apart(40))
    assert found == (-np.inf, np.inf, 1.0)


def test_of_a_model_that_is_hardly_above_chance_no_difference_is_excluded():
    rng = np.random.default_rng(3)
    strong, hardly = drawn(rng, 0.9, 100), drawn(rng, 0.3, 100)
    assert share_difference([strong], [hardly], Clusters.apart(100)).high == np.inf


@pytest.mark.parametrize(
    ("accuracies", "taken"),
    [((0.8, 0.35), 0.0), ((0.95, 0.6), 1.0),
     *in_long_runs(((0.8, 0.8), 0.0), ((0.45, 0.45), 1.0), ((0.8, 0.45), 1.0))],
)  # fmt: skip
def test_the_same_share_is_called_different_as_rarely_as_stated(accuracies, taken):
    rng, n = np.random.default_rng(0), data_sets(400)
    found = [
        share_difference(*([drawn(rng, a, 60, taken)] for a in accuracies), Clusters.apart(60))
        for _ in range(n)
    ]
    assert sum(each.p < 0.05 for each in found) <= most_errors(n)
    assert sum(not each.low <= 0 <= each.high for each in found) <= most_errors(n)


@pytest.mark.parametrize(
    ("accuracy", "noise", "hits"),
    [(0.4, 1.0, {}),
     *in_long_runs((0.33, 1.0, {}), (0.36, 1 / 3, {}), (0.4, 1 / 3, {2: 1.0}), (0.45, 1.0, {}))],
)  # fmt: skip
def test_a_model_that_hardly_knows_the_answers_is_told_apart_as_rarely_as_stated(
    accuracy, noise, hits
):
    """Neither needs any layer, or both the same; the tasks compared are those of lucky answers."""
    n, compared, told = data_sets(60), 0, 0
    for seed in range(n):
        rng = np.random.default_rng(seed)
        runs = [
            weak.prepared(name, weak.run_of(rng, accuracy=right, noise=noise, hits=hits))
            for name, right in (("strong", 0.8), ("weak", accuracy))
        ]
        rows = pd.DataFrame(pair_rows(runs, []))
        losses = rows.loc[rows["family"] == "share lost"]
        compared += len(losses) > 0
        told += bool(losses["significant"].any())
    assert compared > n / 10
    assert told <= most_errors(n)


@pytest.mark.parametrize("accuracy", [0.33, *in_long_runs((0.28,), (0.4,))])
def test_models_that_hardly_know_the_answers_differ_in_them_as_rarely_as_stated(accuracy):
    """Two are equally often right; accuracies are compared where one of them was lucky."""
    n, told = data_sets(200), 0
    for seed in range(n):
        rng = np.random.default_rng(seed)
        runs = [
            weak.prepared(name, weak.run_of(rng, accuracy=accuracy, noise=1.0, n_layers=1))
            for name in ("one", "two")
        ]
        told += any(row["significant"] for row in pair_rows(runs, []))
    assert told <= most_errors(n)


def test_comparisons_that_were_left_out_count_among_the_tests():
    row = {"family": "depth", "p": 0.02, "low": 1.0, "high": 2.0}
    (alone,), (among,) = corrected([row]), corrected([row], {"depth": 3, "share lost": 2})
    assert (alone["p_holm"], alone["p_run"], alone["significant"]) == (0.02, 0.02, True)
    assert (among["p_holm"], among["significant"]) == (pytest.approx(0.06), False)
    assert among["p_run"] == pytest.approx(0.1)
