"""The gates of lens and attribution without an ablation beside: their tests, their errors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest

import layerwise as lw
from layerwise.analyses.attribution.tables import attribution_gate, attribution_signals
from layerwise.analyses.logit_lens.tables import lens_gate, lens_signals
from layerwise.presentation.gates import gate_tables
from layerwise.storage.run_tables import RunTables
from layerwise.tasks import with_other_questions
from tests import synthetic
from tests.analysis import WORDS, first_logits, word_task
from tests.cases import data_sets, most_errors
from tests.models.tiny import tiny_model

N = 60


def lens_rows(right: np.ndarray, gold: np.ndarray, blind: np.ndarray | None, task: str = "t"):
    """What the last layer says of a task's items."""
    return pd.DataFrame(
        {
            "task": task, "capability": "knowledge", "protocol": "continuation", "lens": "logit",
            "over": "prompt", "pos": -1, "site": "resid_post", "layer": 3,
            "item": [f"{task}/{i}" for i in range(len(right))], "token": gold,
            "rank": np.where(right, 0, 4),
            "blind": pd.array(blind if blind is not None else [None] * len(right), "boolean"),
        }
    )  # fmt: skip


def attributed(right: np.ndarray, blind: np.ndarray | None) -> pd.DataFrame:
    rows = lens_rows(right, np.zeros(len(right), dtype=int), blind)
    return rows.assign(correct=right, chance=0.25)


def passes(table: pd.DataFrame, chance: float = 0.0) -> bool:
    return any(lens_signals(table, lambda *_: chance).values())


def test_the_lens_must_beat_its_most_frequent_answer_and_other_questions():
    gold = np.array(["a"] * 24 + ["b", "c"] * 18)
    some = np.arange(N)
    for n_right in range(20, 50):
        p = binomtest(n_right, N, 24 / N, alternative="greater").pvalue
        assert passes(lens_rows(some < n_right, gold, some < 0)) == (p < 0.025)
    many = np.array([f"w{i}" for i in range(N)])
    for n_blind in range(10, 31):
        right, blind = some < 30, some >= N - n_blind  # of no item both
        p = binomtest(30, 30 + n_blind, 0.5, alternative="greater").pvalue
        assert passes(lens_rows(right, many, blind)) == (p < 0.025)


def test_where_no_other_question_was_asked_stated_chance_stands_in_its_place():
    many, right = np.array([f"w{i}" for i in range(N)]), np.arange(N) < 15
    assert passes(lens_rows(right, many, np.zeros(N, dtype=bool)), 0.25)
    assert not passes(lens_rows(right, many, None), 0.25)
    assert passes(lens_rows(right, many, None), 0.1)
    unknown = lens_rows(right, many, np.zeros(N, dtype=bool)).assign(token=None)
    assert not passes(unknown, 0.25)


@pytest.mark.parametrize("says", ["the most frequent", "as often as it is right"])
def test_a_lens_that_says_the_same_of_every_item_has_signal_as_rarely_as_stated(says):
    """Three tasks; 60 % of the answers begin alike, where guessing among four gives 25 %."""
    sets, rng = data_sets(300), np.random.default_rng(3)
    found = by_chance = 0
    for _ in range(sets):
        tables = []
        for task in "abc":
            gold = rng.choice(4, N, p=[0.6, 0.2, 0.1, 0.1])
            if says == "the most frequent":
                said, other = np.zeros((2, N), dtype=int)
            else:
                said, other = rng.choice(4, (2, N), p=[0.6, 0.2, 0.1, 0.1])
            tables.append(lens_rows(said == gold, gold.astype(str), other == gold, task))
        every = pd.concat(tables, ignore_index=True)
        found += passes(every)
        by_chance += (tables[0]["rank"].eq(0).mean() - 0.25) > 0.12
    assert found <= most_errors(sets, 0.025)
    assert by_chance > 0.5 * sets


@pytest.mark.parametrize("gate", ["lens", "attribution"])
def test_a_model_that_does_not_read_the_question_has_signal_as_rarely_as_stated(gate):
    """Its context gives 55 % away; no answer is frequent, and guessing gives 25 %."""
    sets, rng = data_sets(600), np.random.default_rng(4)
    many, found = np.array([f"w{i}" for i in range(N)]), 0
    for _ in range(sets):
        easy = rng.random(N) * 0.9 + 0.1
        right, blind = rng.random((2, N)) < easy
        if gate == "lens":
            found += passes(lens_rows(right, many, blind))
        else:
            found += any(attribution_signals(attributed(right, blind)).values())
    assert found <= most_errors(sets, 0.025)
    assert binomtest(33, N, 0.25, alternative="greater").pvalue < 1e-5  # stated chance lets it pass


def test_attribution_must_beat_chance_and_other_questions():
    some = np.arange(N)
    for n_blind in range(10, 31):
        right, blind = some < 30, some >= N - n_blind
        p = binomtest(30, 30 + n_blind, 0.5, alternative="greater").pvalue
        found = attribution_signals(attributed(right, blind))
        assert found == {("t", "continuation"): p < 0.025}
    for n_right in range(10, 30):
        p = binomtest(n_right, N, 0.25, alternative="greater").pvalue
        found = attribution_signals(attributed(some < n_right, None))
        assert found == {("t", "continuation"): p < 0.025}


def test_a_model_that_reads_it_is_found():
    rng, found = np.random.default_rng(5), []
    for _ in range(60):
        right, blind = rng.random((2, 40)) < [[0.7], [0.25]]  # knows 60 %, guesses the rest
        found.append(any(attribution_signals(attributed(right, blind)).values()))
    assert np.mean(found) > 0.95


def test_the_tables_hold_what_the_model_says_to_other_questions():
    model, task = tiny_model("llama"), word_task(12)
    task = replace(task, items=tuple(replace(item, aliases=()) for item in task.items))
    read = lw.logit_lens(model, task, "continuation", progress=False).lens
    added = lw.attribution(model, task, "continuation", progress=False).attribution
    others = with_other_questions(task, task.items, n=1)
    words = list(WORDS)
    seen = []
    for item in task.items:
        if item.id not in set(added["item"]):
            continue
        (other,) = others[item.id]
        logits = first_logits(model, other.question)
        scores = {choice: logits[words.index(choice)] for choice in item.choices}
        best = max(scores, key=lambda choice: scores[choice]) == item.answer
        assert (added.loc[added["item"] == item.id, "blind"] == best).all()
        seen.append(best)
    assert any(seen)
    assert not all(seen)
    assert read.groupby("item")["blind"].nunique().eq(1).all()


def test_pages_show_what_the_gates_were_decided_on():
    gold = np.array(["a"] * 24 + ["b", "c"] * 18)
    right, blind = np.arange(N) < 45, np.arange(N) >= 51
    (row,) = lens_gate(lens_rows(right, gold, blind), lambda *_: 0.0).to_dict("records")
    against = binomtest(45, 54, 0.5, alternative="greater").pvalue
    expected = {"accuracy": 0.75, "floor": 0.4, "blind": 0.15, "n_items": N, "n_clusters": N}
    assert {name: row[name] for name in expected} == pytest.approx(expected)
    p = max(against, binomtest(45, N, 0.4, alternative="greater").pvalue)
    assert row["p"] == pytest.approx(p)
    assert row["signal"]
    other = attribution_gate(attributed(np.arange(N) < 16, None))
    run = RunTables(synthetic.facts(synthetic.task_facts("t", "knowledge")), {"gate": other})
    (table,) = gate_tables(run, "gate", "its token", "guessing (%)")
    guessed = binomtest(16, N, 0.25, alternative="greater").pvalue
    told = ["t", "continuation", "60", "27", "25", "–", f"{guessed:.3g}", "no"]
    assert table.cells == [told]
    assert gate_tables(run, "none", "", "") == []
