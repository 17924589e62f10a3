"""What all analyses start from: requests that several of them ask for."""

from __future__ import annotations

import warnings
from dataclasses import replace

import pytest
from transformers import PreTrainedTokenizerBase

from layerwise.errors import LongAnswersWarning
from layerwise.models import original_tokenizer
from layerwise.models.huggingface.originals import read_tokenizer
from layerwise.models.names.sources import find_without_weights
from layerwise.runs import encoding
from layerwise.runs.setup import prepare
from layerwise.sweep import Generate
from layerwise.tasks import Item, Task, load_task, task_names, with_room
from tests.analysis import word_task, write_jsonl
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
