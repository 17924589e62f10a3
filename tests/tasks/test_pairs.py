"""Items in pairs: prompts for patching, and questions with and without a passage."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from layerwise.errors import UserError
from layerwise.models.organisms.language import ORGANISM, WIRED
from layerwise.runs.task_loading import load_tasks
from layerwise.sweep.requests import LogLikelihood
from layerwise.tasks import (
    Corruption,
    PatchingPrompts,
    Task,
    build_requests,
    load_task,
    patching_prompts,
    shared_first_tokens,
)
from layerwise.tasks.items import closed_book
from layerwise.tasks.suites import toy
from tests.cases import LONG, in_long_runs

from .small import BEN, FRANCE, small_task
from .smollm2 import smollm2_tokenizer
from .tokenizers import byte_level, word_level


def ids(text: str) -> tuple[int, ...]:
    return tuple(word_level()(text)["input_ids"])


def test_pair_of_prompts() -> None:
    shown = "The capital of Spain is Madrid.\n"
    assert patching_prompts(small_task(), FRANCE, word_level()) == PatchingPrompts(
        item="small/0000",
        clean=ids(shown + "The capital of France is"),
        corrupted=ids(shown + "The capital of Spain is"),
        clean_answer=ids("Paris")[0],
        corrupted_answer=ids("Madrid")[0],
        problem=None,
    )


def test_clean_prompt_is_that_of_continuation() -> None:
    task = load_task("kv-words", limit=5)
    for item in task.items:
        pair = patching_prompts(task, item, byte_level())
        asked = build_requests(task, item, "continuation", byte_level())
        (gold,) = [one.request for one in asked if one.gold]
        assert pair is not None
        assert isinstance(gold, LogLikelihood)
        assert (pair.clean, pair.clean_answer) == (gold.context, gold.continuation[0])


def test_corrupted_context_is_put_in_place_of_the_items() -> None:
    item = replace(BEN, corruption=Corruption("The tallest is", "Ben", "Ben is taller than Anna."))
    pair = patching_prompts(small_task(fewshot=()), item, word_level())
    assert pair is not None
    assert pair.corrupted == ids("Ben is taller than Anna. The tallest is")
    assert pair.corrupted_answer == ids("Ben")[0]


def test_unequal_lengths_are_a_problem() -> None:
    item = replace(FRANCE, corruption=Corruption("The capital of the Spain is", "Madrid"))
    pair = patching_prompts(small_task(fewshot=()), item, word_level())
    assert pair is not None
    assert pair.problem == (
        "Item 'small/0000' and its corruption have 5 and 6 tokens; patching needs equal lengths, "
        "or pairs that are aligned."
    )


def test_answers_that_begin_alike_are_a_problem() -> None:
    item = replace(FRANCE, corruption=Corruption("The capital of Spain is", "Paris Madrid"))
    pair = patching_prompts(small_task(), item, word_level())
    assert pair is not None
    assert pair.problem == (
        "The answers to item 'small/0000' and to its corruption begin with the same token; "
        "patching needs different ones."
    )


def test_shared_first_tokens() -> None:
    shared = replace(FRANCE, id="shared", choices=("Paris", "Paris Madrid", "Rome"))
    harmless = replace(FRANCE, id="harmless", choices=("Paris", "Madrid Rome", "Madrid"))
    bare = replace(FRANCE, id="bare", choices=())
    task = small_task(items=(shared, harmless, bare, FRANCE))
    assert shared_first_tokens(task, word_level()) == ("shared",)


@pytest.mark.smollm2
@pytest.mark.parametrize(
    ("name", "usable", "readable"),
    [
        ("kv-ids", 0.5, 1.0),
        ("facts", 0.85, 0.98),
        ("brackets", 0.0, 1.0),
        *in_long_runs(
            ("sum-chain", 0.7, 0.5),
            ("order", 0.6, 1.0),
            ("hops", 0.95, 1.0),
            ("kv-words", 0.95, 1.0),
            ("open-book", 0.8, 0.98),
            ("facts-open-book", 0.85, 0.98),
            ("arithmetic", 0.9, 0.7),
            ("two-hop", 0.95, 1.0),
            ("repetition", 0.0, 1.0),
            ("passage", 0.0, 1.0),
        ),
    ],
)
def test_most_items_serve_patching_and_lens_on_smollm2(name, usable, readable):
    task, tokenizer = load_task(name, limit=None if LONG else 80), smollm2_tokenizer()
    pairs = [patching_prompts(task, item, tokenizer) for item in task.items]
    fit = sum(pair is not None and pair.problem is None for pair in pairs)
    assert fit / len(pairs) >= usable
    assert 1 - len(shared_first_tokens(task, tokenizer)) / len(task.items) >= readable


def own(task: Task) -> Task:
    return replace(task, source="mine")


def load_all(*tasks: str | Task) -> tuple[Task, ...]:
    return load_tasks(tasks, seed=0, limit=None, fewshot=None)


def with_first(task: Task, **changes: Any) -> Task:
    return replace(task, items=(replace(task.items[0], **changes), *task.items[1:]))


@pytest.fixture(scope="module")
def toy_pair() -> tuple[Task, Task]:
    return toy.facts(WIRED), toy.facts_open_book(WIRED)


def test_the_item_with_the_passage_names_the_one_without() -> None:
    closed, opened = load_all("facts", "facts-open-book")
    assert {closed_book(item) for item in closed.items} == {None}
    assert [closed_book(item) for item in opened.items] == [item.id for item in closed.items]


@pytest.mark.parametrize("language", [ORGANISM, WIRED], ids=["organism", "wired"])
def test_a_toy_fact_is_stated_once_among_those_of_its_options(language) -> None:
    closed, opened = toy.facts(language, 3), toy.facts_open_book(language, 3)
    assert len(closed.items) == len(opened.items)
    for one, other in zip(closed.items, opened.items, strict=True):
        assert (one.id, one.question, one.answer, one.choices, one.cluster) == (
            closed_book(other), other.question, other.answer, other.choices, other.cluster,
        )  # fmt: skip
        words = (other.context or "").split()
        stated = dict(zip(words[::3], words[1::3], strict=True))
        relation, _, entity, _ = other.question.split()
        assert stated[entity] == other.answer
        assert sorted(stated.values()) == sorted(other.choices)
        assert all(language.facts[relation, who] == value for who, value in stated.items())
        change = other.corruption
        assert change is not None
        assert stated[change.question.split()[2]] == change.answer != other.answer


def test_a_file_of_rows_with_passages_names_rows_of_another(tmp_path: Path) -> None:
    row = {"question": "Where?", "answer": "Oslo", "choices": ["Rome", "Oslo"], "id": "one"}
    more = {"context": "It is in Oslo.", "pair": "one", "id": "read"}
    for name, line in (("closed", row), ("open", row | more)):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(line) + "\n")
    _, opened = load_all(*(str(tmp_path / f"{name}.jsonl") for name in ("closed", "open")))
    assert [closed_book(item) for item in opened.items] == ["one"]
    (tmp_path / "bad.jsonl").write_text(json.dumps(row | {"pair": "two"}) + "\n")
    with pytest.raises(UserError, match="line 1: field 'pair' is there without a 'context'; the"):
        load_task(str(tmp_path / "bad.jsonl"))


def test_pairs_that_are_none_are_refused(toy_pair: tuple[Task, Task]) -> None:
    closed, opened = map(own, toy_pair)
    first, second = closed.items[:2]
    other = f"is paired with '{first.id}'"
    with pytest.raises(UserError, match=f"whose answer is '{second.answer}' and not '"):
        load_all(closed, replace(opened, items=(replace(opened.items[0], pair=second.id),)))
    with pytest.raises(UserError, match="open-book/0000', which has a passage and names it in"):
        load_all(with_first(closed, pair=opened.items[0].id), opened)
    with pytest.raises(UserError, match=f"{other}, which stands in the tasks wired-facts and more"):
        load_all(closed, replace(closed, name="more"), opened)
    twice = {"pair": opened.items[1].pair, "answer": opened.items[1].answer}
    with pytest.raises(UserError, match=f"Several items of .* are paired with '{twice['pair']}'"):
        load_all(with_first(opened, **twice, choices=opened.items[1].choices))
    same = opened.items[1].id
    with pytest.raises(UserError, match=f"with '{same}', an item of the same task"):
        load_all(replace(opened, items=(replace(opened.items[0], pair=same), opened.items[1])))
