"""The gates of lens and attribution without an ablation beside: their tests, their errors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest

import layerwise as lw
from layerwise.analyses.attribution.result import attribution_gate
from layerwise.analyses.logit_lens.result import lens_gate
from layerwise.models.organisms.wired import wired_model
from layerwise.presentation.no_signal import gate_tables
from layerwise.stats.signals.signal import signals_from_table
from layerwise.storage.run_tables import RunTables
from layerwise.tasks import load_task, with_other_questions
from layerwise.tasks.items import Item
from tests import synthetic
from tests.analysis import WORDS, first_logits, word_task
from tests.cases import data_sets, in_long_runs, most_errors
from tests.models.tiny import tiny_model

N = 60


def lens_rows(
    right: np.ndarray,
    gold: np.ndarray,
    blind: np.ndarray | None,
    task: str = "t",
    options: np.ndarray | None = None,
):
    """Rows of the last layer for a task's items."""
    return pd.DataFrame(
        {
            "task": task, "capability": "knowledge", "protocol": "continuation", "lens": "logit",
            "over": "prompt", "pos": -1, "site": "resid_post", "layer": 3,
            "item": [f"{task}/{i}" for i in range(len(right))], "token": gold,
            "rank": np.where(right, 0, 4),
            "blind": pd.array(blind if blind is not None else [None] * len(right), "boolean"),
            "options": pd.array(options if options is not None else [None] * len(right), "Int64"),
        }
    )  # fmt: skip


def attribution_rows(right: np.ndarray, blind: np.ndarray | None) -> pd.DataFrame:
    rows = lens_rows(right, np.zeros(len(right), dtype=int), blind)
    return rows.assign(correct=right, chance=0.25)


def passes(table: pd.DataFrame, chance: float = 0.0) -> bool:
    return any(signals_from_table(lens_gate(table, lambda *_: chance)).values())


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


@pytest.mark.long
def test_the_lens_must_beat_choosing_among_the_options_where_one_of_them_is_on_top():
    many, some, never = np.array([f"w{i}" for i in range(N)]), np.arange(N), np.zeros(N, dtype=bool)
    for n_right in range(1, N):
        for n_wrong, n_options in ((0, 4), (N - n_right, 4), ((N - n_right) // 2, 3)):
            options = np.where(some < n_right + n_wrong, n_options, 0)
            floor = (n_right + n_wrong) / n_options / N
            p = binomtest(n_right, N, max(floor, 1 / N), alternative="greater").pvalue
            other = 0.5**n_right  # other questions are never answered with the item's answer
            expected = max(p, other) < 0.025
            assert passes(lens_rows(some < n_right, many, never, options=options)) == expected


@pytest.mark.long
@pytest.mark.parametrize("n", [40, *in_long_runs((20,), (100,))])
def test_a_model_that_chooses_among_the_options_has_signal_as_rarely_as_stated(n):
    """Its choice depends on the question, is one of four, and is right in one of four."""
    sets, rng = data_sets(400), np.random.default_rng(n)
    found = before = 0
    for _ in range(sets):
        gold, four = rng.integers(16, size=n).astype(str), np.full(n, 4)
        right, blind = rng.random((2, n)) < [[0.25], [0.08]]
        found += passes(lens_rows(right, gold, blind, options=four))
        before += passes(lens_rows(right, gold, blind))
    assert found <= most_errors(sets, 0.025)
    if n >= 40:
        assert before > 0.15 * sets  # the most frequent answer and other questions alone


def test_a_model_that_knows_is_found_by_its_lens():
    """It knows 40 or 60 % and says one of the four; or knows 20 % and else says anything."""
    rng = np.random.default_rng(6)
    for n, knows, guesses in ((100, 0.4, True), (40, 0.6, True), (60, 0.2, False)):
        found = []
        for _ in range(60):
            lucky = 0.25 * guesses
            right, blind = rng.random((2, n)) < [[knows + (1 - knows) * lucky], [0.08 * guesses]]
            gold = rng.permutation(n).astype(str)
            options = np.where(right | guesses, 4, 0)
            found.append(passes(lens_rows(right, gold, blind, options=options)))
        assert np.mean(found) > 0.95


@pytest.mark.long
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
            found += any(
                signals_from_table(attribution_gate(attribution_rows(right, blind))).values()
            )
    assert found <= most_errors(sets, 0.025)
    assert binomtest(33, N, 0.25, alternative="greater").pvalue < 1e-5  # stated chance lets it pass


def test_attribution_must_beat_chance_and_other_questions():
    some = np.arange(N)
    for n_blind in range(10, 31):
        right, blind = some < 30, some >= N - n_blind
        p = binomtest(30, 30 + n_blind, 0.5, alternative="greater").pvalue
        found = signals_from_table(attribution_gate(attribution_rows(right, blind)))
        assert found == {("t", "continuation"): p < 0.025}
    for n_right in range(10, 30):
        p = binomtest(n_right, N, 0.25, alternative="greater").pvalue
        found = signals_from_table(attribution_gate(attribution_rows(some < n_right, None)))
        assert found == {("t", "continuation"): p < 0.025}


def test_a_model_that_reads_it_is_found():
    rng, found = np.random.default_rng(5), []
    for _ in range(60):
        right, blind = rng.random((2, 40)) < [[0.7], [0.25]]  # knows 60 %, guesses the rest
        found.append(
            any(signals_from_table(attribution_gate(attribution_rows(right, blind))).values())
        )
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


def test_the_table_of_the_lens_says_whether_an_option_is_on_top():
    """A model that knows all answers, one of which is not among the options of every other item."""
    model, task = wired_model(), load_task("wired-lookup", limit=12)

    def without_what_is_said(item: Item) -> Item:
        others = tuple(choice for choice in item.choices if choice != item.answer)
        return replace(item, answer=others[0], choices=others, corruption=None)

    mixed = [
        without_what_is_said(item) if i % 2 else item for i, item in enumerate(task.items)
    ]  # fmt: skip
    asked = replace(task, items=tuple(mixed))
    read = lw.logit_lens(model, asked, "continuation", progress=False).lens
    last = read.loc[read["layer"] == read["layer"].max()].set_index("item")
    assert last["options"].loc[[item.id for item in task.items]].tolist() == [4, 0] * 6
    assert last["rank"].eq(0).loc[[item.id for item in task.items]].tolist() == [True, False] * 6
    free = replace(task, items=tuple(replace(item, choices=()) for item in task.items))
    asked = lw.logit_lens(model, free, "continuation", progress=False).lens
    assert asked["options"].isna().all()


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
    other = attribution_gate(attribution_rows(np.arange(N) < 16, None))
    run = RunTables(synthetic.facts(synthetic.task_facts("t", "knowledge")), {"gate": other})
    (table,) = gate_tables(run, "gate", "its token", "guessing (%)")
    guessed = binomtest(16, N, 0.25, alternative="greater").pvalue
    told = ["t", "chooses", "60", "27", "25", "–", f"{guessed:.3g}", "no"]
    assert table.cells == [told]
    assert gate_tables(run, "none", "", "") == []
