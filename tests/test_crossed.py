"""Differences between groups of runs: against scipy, by formula, and by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom, f, ttest_ind

from layerwise.stats.items.min_f_prime import crossed_difference


@pytest.mark.parametrize("seed", range(5))
def test_without_an_error_of_items_it_is_welchs_test(seed: int):
    rng = np.random.default_rng(seed)
    first, second = rng.normal(0, 1, 3), rng.normal(0.5, 3, 4)
    found = crossed_difference(first, second, 0.0, 60)
    known = ttest_ind(second, first, equal_var=False)
    interval = known.confidence_interval()
    assert found.p == pytest.approx(known.pvalue)
    assert found.df == pytest.approx(known.df)
    assert (found.interval.low, found.interval.high) == pytest.approx((interval.low, interval.high))


@pytest.mark.parametrize("error", [0.05, 0.15, 0.4])
def test_with_both_errors_it_is_min_f_prime_but_no_surer_than_the_runs_alone(error: float):
    """Clark (1973): F' = F1 F2 / (F1 + F2), df = (F1 + F2)^2 / (F1^2 / df2 + F2^2 / df1)."""
    first, second = np.array([0.1, 0.2, 0.4]), np.array([0.6, 0.9, 0.7])
    found = crossed_difference(first, second, error, 41)
    welch = ttest_ind(second, first, equal_var=False)
    by_runs, by_items = welch.statistic**2, ((second.mean() - first.mean()) / error) ** 2
    squared = by_runs * by_items / (by_runs + by_items)
    df = (by_runs + by_items) ** 2 / (by_runs**2 / 40 + by_items**2 / welch.df)
    whole = np.hypot(found.error_units, found.error_items)
    assert (found.interval.estimate / whole) ** 2 == pytest.approx(squared)
    assert found.df == pytest.approx(df)
    assert found.p == pytest.approx(max(welch.pvalue, f.sf(squared, 1, df)))
    alone = welch.confidence_interval()
    assert found.interval.low <= alone.low + 1e-12
    assert found.interval.high >= alone.high - 1e-12


def test_many_items_do_not_make_up_for_few_runs():
    """Where items vary more than runs, min F' has their many degrees of freedom."""
    first, second = np.array([0.10, 0.11, 0.12]), np.array([0.70, 0.72, 0.71])
    found = crossed_difference(first, second, 0.03, 500)
    assert found.df > 30
    assert found.p == pytest.approx(ttest_ind(first, second, equal_var=False).pvalue)


def test_groups_that_do_not_vary_are_no_surer_than_their_order():
    same = crossed_difference(np.full(3, 0.25), np.full(3, 0.25), 0.0, 60)
    apart = crossed_difference(np.full(3, 0.25), np.full(3, 0.5), 0.0, 60)
    assert same.p == 1.0
    assert apart.p == pytest.approx(2 / 20)
    assert np.isnan([apart.interval.low, apart.interval.high, apart.df]).all()
    with_items = crossed_difference(np.full(3, 0.25), np.full(3, 0.5), 0.01, 60)
    assert with_items.p == pytest.approx(2 / 20)
    assert with_items.interval.low > 0


def test_intervals_cover_when_runs_and_items_both_vary():
    """Runs, items, and what a group finds hard in an item are drawn anew 400 times."""
    rng, inside, n_runs, n_items = np.random.default_rng(0), 0, 3, 40
    for _ in range(400):
        per_item = rng.normal(0, 0.5, (2, 1, n_items)) + rng.normal(0, 1, (1, 1, n_items))
        per_run = rng.normal(0, 0.1, (2, n_runs, 1))
        values = per_item + per_run + rng.normal(0, 0.3, (2, n_runs, n_items))
        groups = values.mean(axis=2)
        over_items = values.mean(axis=1)
        error = (over_items[1] - over_items[0]).std(ddof=1) / np.sqrt(n_items)
        found = crossed_difference(groups[0], groups[1], float(error), n_items)
        inside += found.interval.low <= 0 <= found.interval.high
    # at least nominal, within the error of the simulation
    assert inside >= binom.ppf(0.001, 400, 0.95)
    # and not so wide that nothing could ever be found
    assert inside < 400
