"""Tests of means of skewed values: against plain loops and scipy, and how often they err."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom, ttest_1samp

from layerwise import stats
from layerwise.stats.families.skewed_means import (
    bootstrap_t_p_values,
    skewed_mean_p_values,
    unseen_items_p_values,
)
from tests.cases import data_sets, most_errors
from tests.test_validity_study import FOLDER, part

RESULTS = FOLDER / "results"


def plain_bootstrap_t(values: np.ndarray, seed: int, n_resamples: int) -> float:
    """Twice the smaller tail of Student's t of the resamples about the sample's mean."""

    def student(sample: np.ndarray, mean: float) -> float:
        return (sample.mean() - mean) / (sample.std(ddof=1) / np.sqrt(len(sample)))

    found = student(values, 0.0)
    drawn = [student(values[chosen], values.mean())
             for chosen in stats.resample_indices(len(values), n_resamples, seed)]  # fmt: skip
    above, below = (sum(map(tail, drawn)) + 1 for tail in (found.__le__, found.__ge__))
    return min(1.0, 2 * min(above, below) / (n_resamples + 1))


@pytest.mark.parametrize("n", [8, 30])
def test_the_bootstrap_of_t_is_that_of_a_plain_loop(n):
    values = np.random.default_rng(n).exponential(size=(n, 3)) - [0.4, 1.0, 1.5]
    mine = bootstrap_t_p_values(values, seed=3, n_resamples=400)
    np.testing.assert_allclose(mine, [plain_bootstrap_t(one, 3, 400) for one in values.T])


def test_of_many_normal_values_it_is_student_s_t():
    values = np.random.default_rng(0).normal([0.0, 0.05, 0.1, 0.15], size=(300, 4))
    np.testing.assert_allclose(
        bootstrap_t_p_values(values, seed=0), ttest_1samp(values, 0).pvalue, atol=0.02
    )


def test_values_that_are_all_the_same_have_no_spread_to_draw():
    values = np.array([[0.0, 0.3, -0.5]] * 20)
    p = bootstrap_t_p_values(values, seed=0, n_resamples=199)
    np.testing.assert_allclose(p, [1.0, 0.01, 0.01])
    assert bootstrap_t_p_values(values[:1], seed=0).tolist() == [1.0] * 3
    assert (skewed_mean_p_values(values, seed=0) <= [1.0, 0.05, 0.05]).all()
    assert skewed_mean_p_values(values[:1], seed=0).tolist() == [1.0] * 3


def test_unseen_items_are_as_many_as_would_balance_the_mean():
    values = np.full((30, 3), 0.5)
    values[0, 1:] = [-0.5, -10.0]
    values[1:, 2] = 0.1
    mean = values.mean(axis=0)
    assert mean[0] > 0 > mean[2]
    # The farthest item above is at 0.5, the farthest below at -10; or four times the mean.
    far = [10.0, 10.0, 4 * -mean[2]]
    for m, f, p in zip(np.abs(mean), far, unseen_items_p_values(values), strict=True):
        share = m / (m + f)
        assert (1 - share) * m == pytest.approx(share * f)
        assert p == pytest.approx(min(1.0, 2 * binom.pmf(0, 30, share)))
    assert unseen_items_p_values(np.zeros((30, 1))).tolist() == [1.0]


def test_all_three_tests_must_say_so():
    rng = np.random.default_rng(1)
    values = np.column_stack([rng.normal(size=(40, 5)) + 0.6, rng.exponential(size=(40, 5)) - 1])
    p = skewed_mean_p_values(values, seed=0)
    assert (p >= stats.sign_flip_p_values(values, seed=0) - 1e-12).all()
    assert (p >= unseen_items_p_values(values) - 1e-12).all()
    sure = p < 0.05
    assert sure[:5].any()
    resampled = bootstrap_t_p_values(values[:, sure], seed=5)
    assert (p[sure] > resampled / 2).all()


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "n"), [("lognormal", 40), ("one item in ten balances the others", 24)]
)
def test_skewed_interactions_are_named_rarely_where_sign_flips_name_many(name, n):
    study, rng = part("interaction_claims"), np.random.default_rng(0)
    (world,) = (world for world in study.worlds() if world.name == name)
    n_sets, named, flipped = data_sets(40), 0, 0
    for _ in range(n_sets):
        values = world.draw(rng, n)
        named += study.significant(skewed_mean_p_values(values, seed=rng)).any()
        flipped += study.significant(stats.sign_flip_p_values(values, seed=rng)).any()
    assert named <= most_errors(n_sets)
    assert flipped > 3 * most_errors(n_sets)


def test_the_pages_state_the_saved_rates_of_interactions():
    study = part("interaction_claims")
    table = pd.read_parquet(RESULTS / "interaction_claims.parquet")
    assert list(dict.fromkeys(table["world"])) == [world.name for world in study.worlds()]
    none = table.loc[~table["interacts"]]
    assert (none["rate"] <= 0.05).all()
    page = (FOLDER.parents[1] / "docs" / "evidence" / "interactions.md").read_text()
    for name, rows in table.groupby("world"):
        shares = 100 * rows[["earlier", "claimed"]].div(rows["sets"], axis=0).round(2)
        cells = [f"{round(a)} → {round(b)}" for a, b in shares.to_numpy()]
        assert f"| {name} | {' | '.join(cells)} |" in page
