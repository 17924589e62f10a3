"""The guesser that reads no question: what it is fitted on, when it is held, what it catches."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom

import layerwise as lw
from layerwise.models import original_tokenizer
from layerwise.report import findings
from layerwise.results import AblationResult
from layerwise.stats.signals.signal import (
    Blind,
    GuesserResult,
    MethodAnswers,
    better_than_blind_p_value,
    signals,
)
from layerwise.tasks import Item
from layerwise.tasks.blind import guesser_answers
from layerwise.tasks.blind.control import ABOVE_CHANCE
from layerwise.tasks.task import Task, take
from tests.analysis import word_task
from tests.cases import data_sets, in_long_runs, most_errors
from tests.models.tiny import tiny_model
from tests.tasks.test_blind import nearest, numbers, planted_task, value
from tests.test_validity_study import FOLDER, part

CELL = partial(MethodAnswers, "t", "continuation")


def near_fifteen(share: float, n: int, seed: int) -> Task:
    """Four numbers, of which the one nearest to 15 is right in a share of the items."""

    def gold(rng: np.random.Generator, row: list[str]) -> int:
        return nearest(value(row), 15)

    beyond = (share - 0.25) / 0.75  # another one may be the nearest, too
    return planted_task(numbers, gold, n, beyond, seed)


def guesser_result(task: Task, n: int, *, alone: bool = False) -> GuesserResult:
    found = guesser_answers(take(task, n), "continuation", alone=alone)
    assert found is not None
    right = np.array([found.right[item.id] for item in task.items[:n]])
    return GuesserResult(
        Blind(right.astype(int), np.ones(n, dtype=int)), found.rule, found.is_control
    )


def passes(cell: MethodAnswers) -> bool:
    return signals([cell], lambda *_: 0.25)["t", "continuation"]


def test_it_is_fitted_on_the_whole_task_also_on_what_is_not_asked() -> None:
    task = near_fifteen(0.7, 200, 0)
    short = take(task, 30)
    assert short.unasked == task.items[30:]
    assert take(short, 10).unasked == task.items[10:]
    assert (short.hash, take(short, 10).hash) == (
        replace(short, unasked=()).hash, replace(task, items=task.items[:10]).hash
    )  # fmt: skip
    found, whole = (guesser_answers(one, "continuation") for one in (short, task))
    assert found == whole
    assert found is not None
    assert found.is_control
    assert found.rule in [f"choosing the number nearest to {near}" for near in (14, 15, 16)]
    assert 0.6 < np.mean(list(found.right.values())) < 0.8
    alone = guesser_answers(replace(short, unasked=()), "continuation")
    assert alone is not None
    assert set(alone.right) == {item.id for item in short.items}


@pytest.mark.long
def test_a_guesser_at_chance_is_not_held_unless_no_other_question_can_be_asked() -> None:
    chances = [
        guesser_answers(near_fifteen(0.25, 60, seed), "continuation")
        for seed in range(data_sets(72))
    ]
    held = [one.is_control for one in chances if one is not None]
    assert 0.02 < np.mean(held) < 0.25
    strict = guesser_answers(near_fifteen(0.25, 60, 0), "continuation", alone=True)
    assert strict is not None
    assert strict.is_control


def test_where_an_answer_is_written_it_says_the_most_frequent_one() -> None:
    answers = ["Yes"] * 30 + [f"no {i}" for i in range(20)]
    items = tuple(
        Item(id=f"t/{i}", question=f"q{i}", answer=one, aliases=("yes",) if i == 49 else ())
        for i, one in enumerate(answers)
    )
    task = word_task(1, items=items, chance={"generate": 0.0})
    found = guesser_answers(task, "generate")
    assert found is not None
    assert found.rule == "saying 'yes'"
    assert [found.right[item.id] for item in items] == [True] * 30 + [False] * 19 + [True]
    assert found.is_control
    known = guesser_answers(replace(task, chance={"generate": 0.62}), "generate")
    assert known is not None
    assert not known.is_control  # stated chance has it already
    assert guesser_answers(task, "continuation") is None


def test_options_that_count_as_right_beside_the_answer_leave_nothing_to_guess() -> None:
    task = near_fifteen(0.7, 20, 0)
    doubled = tuple(replace(item, aliases=item.choices) for item in task.items)
    assert guesser_answers(replace(task, items=doubled), "continuation") is None


@pytest.mark.long
@pytest.mark.parametrize(("n_task", "n"), [(200, 100), *in_long_runs((200, 40))])
def test_a_model_that_uses_what_options_give_away_rarely_passes(n_task: int, n: int) -> None:
    """It answers as well as the rule, on other items than the rule; chance lets most pass.

    The guesser has to find the rule, and is a point or two worse; so are 2.4 and 3.2 % at 2.5 %.
    """
    rng = np.random.default_rng(3)
    n_sets = data_sets(48)
    by_chance, by_guesser = 0, 0
    for seed in range(n_sets):
        guessed = guesser_result(near_fifteen(0.6, n_task, seed), n)
        for right in rng.random((20, n)) < 0.6:
            by_chance += passes(CELL(right))
            by_guesser += passes(CELL(right, guessed=guessed))
    assert by_chance > 0.95 * 20 * n_sets
    assert by_guesser <= most_errors(n_sets * 20, 0.05)


@pytest.mark.long
def test_where_it_is_alone_few_items_do_not_let_a_model_pass() -> None:
    """Of 40 items in all a cross-fitted guesser is worse than the rule; the best of all is not."""
    rng = np.random.default_rng(4)
    n_sets = data_sets(48)
    passed = {alone: 0 for alone in (False, True)}
    for seed in range(n_sets):
        task = near_fifteen(0.5, 40, seed)
        for alone in passed:
            guessed = guesser_result(task, 40, alone=alone)
            passed[alone] += sum(
                passes(CELL(right, guessed=guessed)) for right in rng.random((20, 40)) < 0.5
            )
    assert passed[True] <= most_errors(n_sets * 20, 0.025)
    assert passed[False] > 2 * passed[True]


@pytest.mark.long
def test_a_question_blind_model_passes_as_rarely_as_stated_with_all_controls() -> None:
    """Other questions hold the level where the guesser has not found what gives answers away."""
    rng = np.random.default_rng(5)
    n_sets, found = data_sets(48), 0
    for seed in range(n_sets):
        guessed = guesser_result(near_fifteen(0.4, 60, seed), 40)
        for _ in range(20):
            right, others = rng.random(40) < 0.4, rng.binomial(3, 0.4, 40)
            found += passes(CELL(right, Blind(others, np.full(40, 3)), guessed=guessed))
    assert found <= most_errors(n_sets * 20, 0.025)


def test_it_costs_a_model_that_reads_the_question_little() -> None:
    """One of nine tasks of 200 items; the model knows 60 % of 40. Nothing tells of its options."""
    rng = np.random.default_rng(6)
    n_sets = data_sets(2000)
    power = dict.fromkeys(("without", "with", "always"), 0)
    for _ in range(n_sets):
        right, guesses_right = rng.random(40) < 0.6, rng.random(200) < 0.25
        held = binom.sf(guesses_right.sum() - 1, 200, 0.25) < ABOVE_CHANCE
        p = better_than_blind_p_value(right, Blind(rng.binomial(3, 0.25, 40), np.full(40, 3)))
        guessed = Blind(guesses_right[:40].astype(int), np.ones(40, dtype=int))
        p_guesser = better_than_blind_p_value(right, guessed)
        power["without"] += p < 0.025 / 9
        power["with"] += max(p, p_guesser if held else 0) < 0.025 / 9
        power["always"] += max(p, p_guesser) < 0.025 / 9
    assert power["without"] > 0.8 * n_sets
    assert power["with"] > power["without"] - 0.05 * n_sets
    assert power["always"] < power["without"] - 0.08 * n_sets


def leaky_lines(n: int) -> list[dict[str, object]]:
    """One question about one thing or another, and "red" is right in eight of ten items."""
    rng = np.random.default_rng(0)
    words = ["blue", "seven", "two", "four", "door", "open"]
    rows = []
    for i in range(n):
        options = ["red", *rng.choice(words, 3, replace=False)]
        answer = options[0] if i % 5 else options[1]
        choices = [str(one) for one in rng.permutation(options)]
        rows.append({"question": "what is the key", "context": f"the {words[i % 6]} key",
                     "answer": str(answer), "choices": choices})  # fmt: skip
    return rows


def test_a_leaky_file_and_a_model_that_uses_it_end_to_end(tmp_path) -> None:
    """No other question can be asked, and without layers the model says something else."""
    path = tmp_path / "leaky.jsonl"
    lines = leaky_lines(123)
    for i, line in enumerate(lines):  # or repeats would count as one item
        line["context"] = f"Case {i}: {line['context']}"
    path.write_text("\n".join(map(json.dumps, lines)))
    model = copy.deepcopy(tiny_model("gpt2"))
    red = original_tokenizer(model)(" red").input_ids[0]
    model.blocks[0].mlp.b_out.data += 100 * model.unembed.W_U[:, red]
    found = lw.ablate(model, str(path), "continuation", layers=[0], limit=60, progress=False)
    (row,) = found.signal().to_dict("records")
    assert (row["accuracy"], row["n_guesser"]) == (0.8, 60)
    assert row["guesser"] >= 0.75
    assert row["guesser_held"]
    assert not row["signal"]
    (silent,) = findings([found])
    assert "(n = 60)" in silent.full
    assert f"A guesser without the question is right in 80 %, by {row['guesser_rule']}." in (
        silent.full
    )
    kept = found.records["kind"].isin(["intact", "skip", "no layers"])
    without = AblationResult(found.records.loc[kept], found.facts)
    assert without.signal()["signal"].all()
    assert not found.effects()["significant"].any()


@pytest.mark.parametrize("name", ["the number nearest to 15", "the longest, of several the first"])
def test_where_it_is_alone_a_model_that_goes_by_a_rule_of_its_own_never_passes(name: str) -> None:
    """Whatever quarter the rule is seen in, and however options that are alike are told apart."""
    study, rng = part("guesser_claims"), np.random.default_rng(0)
    (cue,) = (cue for cue in study.CUES if cue.name == name)
    for _ in range(2):
        task = study.made_up_task(rng, cue, 60, 0.7)
        answers = guesser_answers(task, "continuation", alone=True)
        assert answers is not None
        (by_rule,) = study.models(rng, task, cue, 0.7)[study.BY_RULE]
        guessed = sum(answers.right[item.id] for item in task.items)
        assert by_rule.sum() <= guessed
        assert guessed < len(task.items)
        assert not passes(CELL(by_rule, guessed=study.guesser_results(task)["alone"]))


def test_where_it_is_alone_the_most_frequent_answer_is_that_of_all_items() -> None:
    answers = ["yes"] * 4 + ["no"] * 3
    items = tuple(Item(id=f"t/{i}", question="q", answer=one) for i, one in enumerate(answers))
    task = word_task(1, items=items, chance={"generate": 0.0})
    found = guesser_answers(task, "generate", alone=True)
    assert found is not None
    assert found.rule == "saying 'yes'"
    assert sum(found.right.values()) == 4
    assert found.is_control


def test_the_page_states_the_saved_rates_of_guessers() -> None:
    study = part("guesser_claims")
    table = pd.read_parquet(FOLDER / "results" / "guesser_claims.parquet")
    assert list(dict.fromkeys(table["cue"])) == [cue.name for cue in study.CUES]
    rates = table.set_index(["cue", "model", "right", "items"])
    blind = table.loc[table["model"] != study.KNOWS]
    page = (FOLDER.parents[1] / "docs" / "evidence" / "signal.md").read_text()
    for name in ("the number nearest to 15", "the longest, of several the first", "the third"):
        found = blind.loc[blind["cue"] == name]
        assert (found["rate"] <= 0.05).all()
        for kind in (study.AS_OFTEN, study.BY_RULE):
            rows = [rates.loc[(name, kind, share, n)] for share in study.SHARES
                    for n in study.SIZES]  # fmt: skip
            cells = [f"{100 * row['earlier'] / row['models']:.1f} → {100 * row['rate']:.1f}"
                     for row in rows]  # fmt: skip
            says = kind if kind == study.BY_RULE else f"is {kind}"
            assert f"| {name}; the model {says} | {' | '.join(cells)} |" in page
    often = blind.loc[blind["model"] == study.AS_OFTEN]
    assert (often["beside"] / often["models"] <= 0.025).all()
    unknown = rates.loc[("the first in an order of 40 names", study.AS_OFTEN, 0.6, 200)]
    assert f"gives signal to {100 * unknown['rate']:.0f} % of such models" in page
    let_pass = 100 * unknown["beside"] / unknown["models"]
    assert f"Other questions let {let_pass:.1f} % pass" in page
    knows = rates.loc[("nothing", study.KNOWS, 0.6, 40)]
    earlier = 100 * knows["earlier"] / knows["models"]
    assert f"found in {100 * knows['rate']:.0f} % instead of {earlier:.0f} %" in page
