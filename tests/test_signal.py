"""Signal: against the exact interval one by one, and how often a run on guesses has any."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest, t
from statsmodels.regression.linear_model import OLS

from layerwise import stats
from layerwise.report import findings
from layerwise.results import AblationResult
from layerwise.stats.items.clusters import Clusters
from layerwise.stats.signals.signal import (
    Blind,
    IntactAnswers,
    MethodAnswers,
    above_chance_p_values,
    accuracy_difference,
    better_than_blind_p_value,
    signal_p_values,
    signals,
)
from tests import synthetic
from tests.cases import LONG, data_sets, most_errors


def answers_by_task(right: list[int], n: int) -> list[MethodAnswers]:
    return [MethodAnswers(f"task-{i}", "letter", np.arange(n) < k) for i, k in enumerate(right)]


def quarter(task: str, protocol: str) -> float:
    return 0.25


@pytest.mark.parametrize("chance", [0.0, 0.25, 0.5])
@pytest.mark.parametrize("n", [1, 8, 40])
def test_one_task_alone_has_signal_where_its_exact_interval_is_above_chance(n, chance):
    for right in range(n + 1):
        (found,) = signals(answers_by_task([right], n), lambda task, protocol: chance).values()
        assert found == stats.above_chance(np.arange(n) < right, chance)


@pytest.mark.long
def test_of_nine_suites_that_are_guessed_on_none_passes_more_often_than_it_may():
    """One by one, one of nine would in every fifth run."""
    sets, rng = data_sets(3000), np.random.default_rng(0)
    alone = together = 0
    for right in rng.binomial(32, 0.25, size=(sets, 9)).tolist():
        each = answers_by_task(right, 32)
        alone += any(stats.above_chance(one.intact, 0.25) for one in each)
        together += any(signals(each, quarter).values())
    assert together <= most_errors(sets, 0.025)
    assert alone > 0.1 * sets


def test_a_task_that_is_known_has_signal_among_many_that_are_not():
    found = signals(answers_by_task([9, 8, 26, 7, 10, 8, 6, 9, 8], 32), quarter)
    assert [task for (task, _), signal in found.items() if signal] == ["task-2"]
    assert signals([], quarter) == {}


def test_a_place_that_is_always_taken_is_told():
    """A model that picks C whatever it is asked has no signal, and the sentence says why."""
    n, gold = 40, np.arange(40) % 4
    taken = np.where(np.arange(n) < 38, 2, 0)
    right = np.column_stack([taken == gold] * 2)  # the intact model, and without a layer
    table = synthetic.cell_records(right, "keys", "retrieval")

    def answered(places: list[int | None]) -> AblationResult:
        return synthetic.ablation(table.assign(chosen=pd.array(places * 2, dtype="Int64")))

    told = answered(taken.tolist())
    (row,) = told.signal().to_dict("records")
    assert (row["most_taken"], row["n_most_taken"]) == (2, 38)
    (silent,) = findings([told])
    assert "25 % by chance" in silent.short
    assert "It takes C in 95 % of items." in silent.details
    assert "It takes" not in findings([answered(gold.tolist())])[0].full
    unknown = answered([None] * n)
    (row,) = unknown.signal().to_dict("records")
    assert pd.isna(row["most_taken"])
    assert "It takes" not in findings([unknown])[0].full


def test_the_sentence_names_every_control_that_was_measured():
    """A model that is right without its layers is told from one that does not read the question."""
    right = np.ones((12, 2), dtype=bool)
    alone = synthetic.cell_records(right, "keys", "retrieval")
    (told,) = findings([synthetic.ablation(alone.assign(correct=np.arange(24) % 4 == 0))])
    assert "It is not shown to be better than chance." in told.details
    floor = np.arange(12) < 9
    table = synthetic.cell_records(right, "keys", "retrieval", no_layers=floor)
    (told,) = findings([synthetic.ablation(table)])
    assert "It is not shown to be better than chance and without layers." in told.details
    assert "It answers right without its layers in 75 % (n = 12)." in told.details
    two = pd.concat([table, synthetic.cell_records(right, "more", "retrieval", no_layers=floor)])
    for told in findings([synthetic.ablation(two)]):
        assert "better than chance and without layers alike (Holm)." in told.full


def method_answers(task: str, *answers: Any) -> MethodAnswers:
    return MethodAnswers(task, "continuation", *answers)


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
        signals([method_answers("t", a[:, 0], blind(a[:, 1:].sum(axis=1), 3))], lambda *_: 0.25)[
            "t", "continuation"
        ]
        for a in answers
    )
    assert found <= stats.exact_interval(round(0.025 * n_sets), n_sets).high * n_sets
    by_chance = sum(
        signals([method_answers("t", a[:, 0])], lambda *_: 0.25)["t", "continuation"]
        for a in answers
    )
    assert by_chance > 0.9 * n_sets or easy == 0.25


def test_what_an_embedding_answers_is_no_signal():
    rng = np.random.default_rng(3)
    right = rng.random(60) < 0.7
    cell = method_answers("t", right, blind(np.zeros(60, dtype=int), 3), right.copy())
    assert signal_p_values([cell], lambda *_: 0.25).tolist() == [1.0]
    assert not signals([cell], lambda *_: 0.25)["t", "continuation"]


def test_tasks_are_corrected_for_together():
    """Eight tasks at the level alone, of which none passes among the eight."""
    intact = np.array([True] * 5 + [False] * 15)  # p = 0.5 ** 5 against nothing right blind
    cells = [method_answers(str(i), intact, blind(np.zeros(20, dtype=int), 1)) for i in range(8)]
    alone = signals(cells[:1], lambda *_: 0.0)
    assert not alone["0", "continuation"]  # 0.031
    six = np.array([True] * 6 + [False] * 14)
    one = method_answers("six", six, blind(np.zeros(20, dtype=int), 1))
    assert signals([one], lambda *_: 0.0)["six", "continuation"]
    assert not signals([one, *cells], lambda *_: 0.0)["six", "continuation"]


def answers(right, labels=None) -> IntactAnswers:
    right = np.asarray(right, dtype=bool)
    clusters = Clusters.singletons(len(right)) if labels is None else Clusters.from_labels(labels)
    return IntactAnswers(right, clusters)


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
    error = fitted.bse[1] * np.sqrt(24 / 22)
    assert found.p == pytest.approx(2 * t.sf(abs(fitted.params[1] / error), 22))


@pytest.mark.parametrize("level", [0.5, 0.97])
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


def test_accuracies_are_means_over_tasks_and_the_same_answers_do_not_differ():
    found = accuracy_difference([answers([1, 1, 0, 0]), answers([1, 1])], [answers([0, 1, 0, 0])])
    assert found[:2] == (0.75, 0.25)
    assert accuracy_difference([answers([1, 1])], [answers([1, 1])]).p == 1.0


def test_p_values_are_those_of_scipy():
    for right, n, chance in ((10, 32, 0.25), (0, 5, 0.5), (7, 7, 1 / 3)):
        (p,) = above_chance_p_values(np.array([right]), np.array([n]), np.array([chance]))
        assert p == pytest.approx(binomtest(right, n, chance, alternative="greater").pvalue)
