"""Signal: against the exact interval one by one, and how often a run on guesses has any."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from layerwise import stats
from layerwise.report import findings
from layerwise.results import AblationResult
from layerwise.stats.signals.signal import Answered, above_chance_p_values, signals
from tests import synthetic
from tests.cases import data_sets, most_errors


def asked(right: list[int], n: int) -> list[Answered]:
    return [Answered(f"task-{i}", "letter", np.arange(n) < k) for i, k in enumerate(right)]


def quarter(task: str, protocol: str) -> float:
    return 0.25


@pytest.mark.parametrize("chance", [0.0, 0.25, 0.5])
@pytest.mark.parametrize("n", [1, 8, 40])
def test_one_task_alone_has_signal_where_its_exact_interval_is_above_chance(n, chance):
    for right in range(n + 1):
        (found,) = signals(asked([right], n), lambda task, protocol: chance).values()
        assert found == stats.above_chance(np.arange(n) < right, chance)


def test_p_values_are_those_of_scipy():
    from scipy.stats import binomtest

    for right, n, chance in ((10, 32, 0.25), (0, 5, 0.5), (7, 7, 1 / 3)):
        (p,) = above_chance_p_values(np.array([right]), np.array([n]), np.array([chance]))
        assert p == pytest.approx(binomtest(right, n, chance, alternative="greater").pvalue)


def test_of_nine_suites_that_are_guessed_on_none_passes_more_often_than_it_may():
    """One by one, one of nine would in every fifth run."""
    sets, rng = data_sets(3000), np.random.default_rng(0)
    alone = together = 0
    for right in rng.binomial(32, 0.25, size=(sets, 9)).tolist():
        each = asked(right, 32)
        alone += any(stats.above_chance(one.intact, 0.25) for one in each)
        together += any(signals(each, quarter).values())
    assert together <= most_errors(sets, 0.025)
    assert alone > 0.1 * sets


def test_a_task_that_is_known_has_signal_among_many_that_are_not():
    found = signals(asked([9, 8, 26, 7, 10, 8, 6, 9, 8], 32), quarter)
    assert [task for (task, _), signal in found.items() if signal] == ["task-2"]


def test_without_tasks_there_is_none():
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
