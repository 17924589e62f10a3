"""Signal against measured controls: other items' questions, and the model without any layer."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest

from layerwise import stats
from layerwise.stats.signals.signal import (
    Answered,
    Blind,
    better_than_blind_p_value,
    signal_p_values,
    signals,
)
from tests.cases import LONG


def answered(task: str, *answers: Any) -> Answered:
    return Answered(task, "continuation", *answers)


def blind(right, asked) -> Blind:
    return Blind(np.asarray(right), np.full(len(right), asked))


def test_with_one_other_question_it_is_mcnemars_exact_test():
    rng = np.random.default_rng(0)
    for _ in range(20):
        intact, other = rng.random((2, 30)) < [[0.7], [0.4]]
        b, c = (intact & ~other).sum(), (~intact & other).sum()
        expected = binomtest(b, b + c, 0.5, alternative="greater").pvalue
        found = better_than_blind_p_value(intact, blind(other.astype(int), 1))
        assert found == pytest.approx(expected, abs=1e-12)
        two_sided = stats.mcnemar_exact(int(b), int(c))
        assert b <= c or 2 * found == pytest.approx(two_sided, abs=1e-12)


def test_it_counts_all_ways_to_give_answers_to_questions():
    """Three items with 1, 2 and 1 right answers to 3, 3 and 2 questions, by enumeration."""
    intact = np.array([True, True, False])
    asked, right = np.array([2, 2, 1]), np.array([0, 1, 1])
    ways = product([1, 0, 0], [1, 1, 0], [1, 0])  # is the own question among those right?
    as_good = [sum(way) >= 2 for way in ways]
    expected = np.mean(as_good)
    assert better_than_blind_p_value(intact, Blind(right, asked)) == pytest.approx(expected)


def test_items_that_were_asked_nothing_else_say_nothing():
    intact = np.array([True] * 20)
    assert better_than_blind_p_value(intact, blind(np.zeros(20, dtype=int), 0)) == 1.0
    mixed = Blind(np.zeros(20, dtype=int), np.array([0] * 15 + [1] * 5))
    assert better_than_blind_p_value(intact, mixed) == pytest.approx(0.5**5)


@pytest.mark.parametrize("easy", [0.25, 0.55, 0.9])
def test_a_model_that_does_not_read_the_question_has_signal_as_rarely_as_stated(easy):
    """Options that give themselves away: right in 55 % of items, where guessing gives 25 %."""
    rng = np.random.default_rng(1)
    n_sets, n_items = 2000 if LONG else 400, 60
    given_away = rng.random((n_sets, n_items, 1)) * 2 * min(easy, 1 - easy) + easy
    given_away -= min(easy, 1 - easy)  # items differ in how easy they are
    answers = rng.random((n_sets, n_items, 4)) < given_away
    found = sum(
        signals([answered("t", a[:, 0], blind(a[:, 1:].sum(axis=1), 3))], lambda *_: 0.25)[
            "t", "continuation"
        ]
        for a in answers
    )
    assert found <= stats.exact_interval(round(0.025 * n_sets), n_sets).high * n_sets
    by_chance = sum(
        signals([answered("t", a[:, 0])], lambda *_: 0.25)["t", "continuation"] for a in answers
    )
    assert by_chance > 0.9 * n_sets or easy == 0.25


def test_a_model_that_reads_it_is_found():
    rng = np.random.default_rng(2)
    able = rng.random((200, 60)) < 0.6
    others = rng.binomial(3, 0.25, (200, 60))
    found = [
        better_than_blind_p_value(a, blind(o, 3)) < 0.025 for a, o in zip(able, others, strict=True)
    ]
    assert np.mean(found) > 0.95


def test_what_an_embedding_answers_is_no_signal():
    rng = np.random.default_rng(3)
    right = rng.random(60) < 0.7
    cell = answered("t", right, blind(np.zeros(60, dtype=int), 3), right.copy())
    assert signal_p_values([cell], lambda *_: 0.25).tolist() == [1.0]
    assert not signals([cell], lambda *_: 0.25)["t", "continuation"]


def test_tasks_are_corrected_for_together():
    """Eight tasks at the level alone, of which none passes among the eight."""
    intact = np.array([True] * 5 + [False] * 15)  # p = 0.5 ** 5 against nothing right blind
    cells = [answered(str(i), intact, blind(np.zeros(20, dtype=int), 1)) for i in range(8)]
    alone = signals(cells[:1], lambda *_: 0.0)
    assert not alone["0", "continuation"]  # 0.031
    six = np.array([True] * 6 + [False] * 14)
    one = answered("six", six, blind(np.zeros(20, dtype=int), 1))
    assert signals([one], lambda *_: 0.0)["six", "continuation"]
    assert not signals([one, *cells], lambda *_: 0.0)["six", "continuation"]
