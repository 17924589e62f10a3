"""The least that exact tests can establish, held to those tests themselves."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
from scipy.stats import binomtest

from layerwise import stats
from layerwise.errors import UserError
from layerwise.stats.signals import power


@pytest.mark.parametrize("n_tests", [1, 2, 8, 30, 60])
def test_so_many_changes_and_no_fewer_are_significant_alone_among_the_tests(n_tests):
    enough = power.least_change(n_tests)
    for changed, significant in ((enough, True), (enough - 1, False)):
        p = np.array([stats.mcnemar_exact(changed, 0), *[1.0] * (n_tests - 1)])
        assert (stats.holm(p)[0] < 0.05) == significant


@pytest.mark.parametrize(
    ("n", "chance", "n_tests"), [(60, 0.25, 1), (80, 0.25, 32), (24, 0.08, 60)]
)
def test_so_many_right_answers_and_no_fewer_are_above_guessing(n, chance, n_tests):
    enough = power.least_right(n, chance, n_tests)
    assert enough is not None
    for right, above in ((enough, True), (enough - 1, False)):
        p = binomtest(right, n, chance, alternative="greater").pvalue
        assert (p * n_tests < 0.05) == above


def test_of_too_few_items_none_are_enough():
    assert power.least_right(4, 0.5) is None


def test_no_tests_at_all_are_refused():
    for ask in (lambda: power.least_change(0), lambda: power.least_right(8, 0.5, 0)):
        with pytest.raises(UserError, match="at least one test, not 0"):
            ask()


def test_examples_hold():
    assert doctest.testmod(power).failed == 0
