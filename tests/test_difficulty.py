"""Is the intact model right as often in one capability as in another? And who says so?"""

from __future__ import annotations

import numpy as np
import pytest
from statsmodels.regression.linear_model import OLS

from layerwise.stats.items.clusters import Clusters
from layerwise.stats.signals.difficulty import Answers, accuracy_difference
from tests.cases import data_sets, most_errors


def answers(right, labels=None) -> Answers:
    right = np.asarray(right, dtype=bool)
    clusters = Clusters.apart(len(right)) if labels is None else Clusters.of(labels)
    return Answers(right, clusters)


def test_accuracies_are_means_over_tasks():
    found = accuracy_difference([answers([1, 1, 0, 0]), answers([1, 1])], [answers([0, 1, 0, 0])])
    assert found[:2] == (0.75, 0.25)


def test_p_is_that_of_statsmodels_cluster_robust_regression():
    """Of one task each, with the two answers that are added: a regression on the group."""
    rng = np.random.default_rng(0)
    facts = [f"fact {i}" for i in range(20)]
    known = rng.random(20) < 0.6
    first = np.where(rng.random(20) < 0.8, known, rng.random(20) < 0.9)
    found = accuracy_difference([answers(first, facts)], [answers(known, facts)])
    right = np.concatenate([first, [1, 0], known, [1, 0]]).astype(float)
    group = np.repeat([1.0, 0.0], 22)
    cluster = np.concatenate([np.arange(20), [20, 21], np.arange(20), [22, 23]])
    model = OLS(right, np.column_stack([np.ones(44), group]))
    fitted = model.fit(cov_type="cluster", cov_kwds={"groups": cluster, "use_correction": False})
    from scipy.stats import t

    error = fitted.bse[1] * np.sqrt(24 / 22)
    assert found.p == pytest.approx(2 * t.sf(abs(fitted.params[1] / error), 22))


@pytest.mark.parametrize("level", [0.5, 0.85, 0.97])
@pytest.mark.parametrize("shared", [False, True])
def test_equal_accuracies_are_called_unequal_no_more_often_than_stated(level, shared):
    """40 and 100 items, or 40 facts that both ask for, of which both know mostly the same."""
    n = data_sets(1500)
    wrong = 0
    for seed in range(n):
        rng = np.random.default_rng(seed)
        known = rng.random(40) < level
        again = np.where(rng.random(40) < 0.8, known, rng.random(40) < level)
        names = [f"fact {i}" for i in range(40)]
        pair = (answers(known, names), answers(again, names))
        alone = answers(rng.random(100) < level)
        first, second = pair if shared else (pair[0], alone)
        wrong += accuracy_difference([first], [second]).p < 0.05
    assert wrong <= most_errors(n)


def test_a_difference_of_thirty_points_is_found():
    rng = np.random.default_rng(1)
    found = [
        accuracy_difference([answers(rng.random(60) < 0.9)], [answers(rng.random(60) < 0.6)]).p
        for _ in range(100)
    ]
    assert np.mean(np.array(found) < 0.05) > 0.85


def test_no_more_clusters_than_tasks_say_nothing_and_the_same_answers_do_not_differ():
    assert accuracy_difference([answers([1, 1])], [answers([1, 1])]).p == 1.0
