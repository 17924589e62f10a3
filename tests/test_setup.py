"""Start of all analyses: requests that several of them ask for."""

from __future__ import annotations

import warnings
from dataclasses import replace

import pytest
from transformers import PreTrainedTokenizerBase

import layerwise as lw
from layerwise.analyses.ablation.api import score
from layerwise.errors import (
    LongAnswersWarning,
    LongItemsWarning,
    NoSignalPossibleWarning,
    UserError,
)
from layerwise.models import original_tokenizer
from layerwise.models.huggingface.originals import read_tokenizer
from layerwise.models.names.sources import find_without_weights
from layerwise.planning import plan_run
from layerwise.runs import encoding
from layerwise.runs.setup import prepare
from layerwise.runs.task_loading import warn_of_few_items
from layerwise.stats.signals.power import items_for_any_signal, least_right
from layerwise.sweep import Generate
from layerwise.tasks import Corruption, Item, Task, load_task, task_names, with_room
from tests.analysis import prompt_pair, word_task, write_jsonl
from tests.models.tiny import tiny_model

PI = "3.14159265358979323846"
AMHARIC = "አዲስ አበባ የኢትዮጵያ ዋና ከተማ ናት"


def test_items_are_encoded_once_as_far_as_there_is_room(monkeypatch):
    task = word_task(3)
    setup = prepare(tiny_model("llama"), task, ("continuation", "generate"))
    first, second, third = task.items
    asked = setup.requests(task, first, "continuation")
    assert setup.requests(task, first, "continuation") is asked
    assert (
        replace(setup, protocols=("continuation",)).requests(task, first, asked[0].protocol)
        is asked
    )
    assert setup.requests(task, first, "generate") != asked
    assert setup.requests(task, second, "continuation") != asked
    # Another task, even of the same name and items, is asked in another way.
    shots = replace(task, fewshot=(third,))
    assert len(setup.requests(shots, first, "continuation")[0].context) > len(asked[0].context)
    monkeypatch.setattr(encoding, "_MOST_TOKENS", setup.built.n_tokens)
    fresh = setup.requests(task, third, "continuation")
    again = setup.requests(task, third, "continuation")
    assert fresh == again
    assert fresh is not again
    assert setup.requests(task, first, "continuation") is asked


def own(folder, *answers: str) -> Task:
    """A user's file with these answers."""
    items = [Item(f"own/{i}", f"Question {i}?", answer) for i, answer in enumerate(answers)]
    return load_task(str(write_jsonl(folder / "own.jsonl", items)))


@pytest.fixture(scope="module")
def smollm2() -> PreTrainedTokenizerBase:
    return read_tokenizer(find_without_weights("smollm2-135m").folder)


@pytest.mark.parametrize("answer", [PI, AMHARIC])
def test_answers_have_the_tokens_that_it_takes_to_write_them(tmp_path, smollm2, answer):
    task = own(tmp_path, "4", answer)
    needed = len(smollm2(f" {answer}")["input_ids"])
    assert task.max_tokens < needed <= with_room(task, smollm2).max_tokens
    assert with_room(task, smollm2).hash == task.hash


@pytest.mark.parametrize("name", task_names())
def test_built_in_suites_leave_room_for_their_answers(smollm2, name):
    task = load_task(name)
    assert with_room(task, smollm2) is task


def test_a_run_says_that_texts_may_be_longer_than_the_task_says(tmp_path):
    model, task = tiny_model("llama"), own(tmp_path, "four", AMHARIC)
    needed = len(original_tokenizer(model)(f" {AMHARIC}")["input_ids"])
    says = f"'own' from {task.max_tokens} to {needed + 2} tokens"
    with pytest.warns(LongAnswersWarning, match=says):
        setup = prepare(model, task, "generate")
    (asked,) = setup.requests(setup.tasks[0], task.items[0], "generate")
    assert isinstance(asked.request, Generate)
    assert asked.request.max_tokens == needed + 2
    with warnings.catch_warnings(action="error"):
        prepare(model, own(tmp_path, "four", PI[:9]), "generate")
        prepare(model, own(tmp_path, "four"), "continuation")


TASK = word_task(5)
LONG = Item("long", "one " * 500, "key", ("key", "open"))
WITH_LONG = replace(TASK, items=(TASK.items[0], LONG, *TASK.items[1:]))


def test_items_that_are_too_long_are_refused_unless_they_may_be_left_out() -> None:
    model = tiny_model("llama")
    with pytest.raises(UserError, match=r"'long' of task 'words' needs .* leave such items out"):
        score(model, WITH_LONG, "continuation", progress=False)
    with pytest.warns(LongItemsWarning) as warned:
        result = score(model, WITH_LONG, "continuation", skip_long=True, progress=False)
    assert str(warned[0].message) == (
        "Left out, as the model's context has no room for them: 1 of 6 items of words (long)."
    )
    (facts,) = result.facts.tasks
    assert (facts.n_items, facts.too_long) == (5, ("long",))
    assert set(result.records["item"]) == {item.id for item in TASK.items}


def test_pairs_one_of_whose_prompts_is_too_long_are_left_out() -> None:
    """Also where the twin alone is too long, and of an item without options."""
    model = tiny_model("llama")
    pair = prompt_pair(model, "pair", "the red key opens", "the blue key opens")
    assert pair is not None
    long = replace(pair, id="long", choices=(), corruption=Corruption("one " * 500, "open"))
    task = word_task(items=(pair, long))
    with pytest.raises(UserError, match=r"'long' of task 'words' needs .* leave such items out"):
        lw.patch_activations(model, task, align=True, progress=False)
    for patched in (lw.patch_activations, lw.patch_paths, lw.attribute_patches):
        with pytest.warns(LongItemsWarning, match=r"1 of 2 items of words \(long\)"):
            result = patched(model, task, skip_long=True, progress=False)
        (facts,) = result.facts.tasks
        assert (facts.n_items, facts.too_long) == (1, ("long",))
    with pytest.warns(LongItemsWarning):
        plan = plan_run(model, task, analysis="patching", skip_long=True, untimed=True)
    assert (
        plan.rows[0].cost.requests
        == plan_run(model, word_task(items=(pair,)), analysis="patching", untimed=True)
        .rows[0]
        .cost.requests
    )


def test_a_task_of_long_items_alone_is_refused() -> None:
    with pytest.raises(UserError) as caught:
        score(tiny_model("llama"), replace(TASK, items=(LONG,)), "continuation", skip_long=True)
    assert str(caught.value) == (
        "All items of task 'words' need more tokens than the model takes; take fewer few-shot "
        "examples or shorter contexts."
    )


@pytest.mark.parametrize("chance", [0.1, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("n_tests", [1, 6, 40])
def test_items_for_any_signal_are_the_first_that_can_show_it(chance: float, n_tests: int) -> None:
    n = items_for_any_signal(chance, n_tests)
    assert n is not None
    assert least_right(n, chance, n_tests, level=0.025) == n
    assert n == 1 or least_right(n - 1, chance, n_tests, level=0.025) is None


def test_too_few_items_are_warned_of_once_and_enough_are_not() -> None:
    sure = replace(TASK, name="sure", chance={"letter": 1.0})
    with pytest.warns(NoSignalPossibleWarning) as warned:
        warn_of_few_items([(replace(TASK, chance={"letter": 0.5}), "letter"), (sure, "letter")])
    assert [str(one.message) for one in warned] == [
        "Too few items for any signal: even if all are right, guessing is not excluded "
        "(corrected for 2 tests). words (letter) has 5 items, 7 are needed; sure (letter) has 5 "
        "items, no number is enough."
    ]
    warn_of_few_items([(replace(TASK, chance={"letter": 0.25}), "letter")])
