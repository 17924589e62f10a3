"""A user's own ``Task``: every sentence about what is wrong with it, before anything is asked."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from layerwise.errors import UserError
from layerwise.runs.setup import load_tasks
from layerwise.tasks import Corruption, load_task, task_names
from layerwise.tasks._own import check_own_task

from .small import BEN, FRANCE, SHOWN, small_task

SPEC = small_task().generate
HALF = "half \ud83d"


def odd(value: Any, **changes: Any) -> Any:
    """As ``replace``, but without the check of types that only tests' own runs make."""
    twin = copy.copy(value)
    for name, one in changes.items():
        object.__setattr__(twin, name, one)
    return twin


def load_changed(**changes: Any) -> Any:
    return load_tasks([odd(small_task(), **changes)], seed=0, limit=None, fewshot=None)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"name": ""}, "A task: 'name' is ''; expected a text that is not empty"),
        ({"capability": None}, "Task 'small': 'capability' is None; expected a text"),
        ({"items": ()}, "Task 'small' has no items; expected at least one"),
        ({"items": "ab"}, "Task 'small': 'items' is 'ab'; expected a tuple of Item values"),
        ({"items": (FRANCE, "ab")}, "expected a tuple of Item values"),
        ({"other_fewshot": None}, "'other_fewshot' is None; expected a tuple of draws of examples"),
        ({"items": (FRANCE, FRANCE)}, "has the id 'small/0000' twice; expected each once"),
        ({"fewshot": (odd(SHOWN, id=BEN.id),)}, "has the id 'small/0001' twice"),
        (
            {"fewshot": (odd(FRANCE, id="other"),)},
            "shows the answer to its item 'small/0000' as few-shot example 'other'",
        ),
        ({"items": (odd(BEN, answer=""),)}, "Item 'small/0001' of task 'small': 'answer' is"),
        ({"items": (odd(BEN, context=3),)}, "'context' is 3; expected a text that is not"),
        ({"items": (odd(BEN, context=HALF),)}, "expected a text of whole characters"),
        ({"items": (odd(BEN, choices="ab"),)}, "'choices' is 'ab'; expected a tuple of texts"),
        ({"items": (odd(BEN, choices=("Anna", 3)),)}, "'choices' is 3; expected a text"),
        ({"items": (odd(BEN, choices=("a", "b")),)}, "an answer that is not among its choices"),
        ({"items": (odd(BEN, choices=("Anna", "Anna")),)}, "has equal choices; expected"),
        ({"items": (odd(BEN, aliases=3),)}, "'aliases' is 3; expected a tuple of texts"),
        ({"items": (odd(BEN, corruption="x"),)}, "'corruption' is 'x'; expected a Corruption"),
        (
            {"items": (odd(BEN, corruption=Corruption("", "Ben")),)},
            "Item 'small/0001' of task 'small', corruption: 'question' is ''",
        ),
        ({"chance": {"letter": float("nan")}}, "the chance level under 'letter' is nan; expected"),
        ({"chance": {"letter": 25}}, "the chance level under 'letter' is 25; expected the share"),
        ({"chance": {"letter": True}}, "the chance level under 'letter' is True"),
        ({"chance": 0.5}, "Task 'small': 'chance' is 0.5; expected a level for each protocol"),
        ({"generate": "greedy"}, "'generate' is 'greedy'; expected a GenerateSpec"),
        ({"generate": odd(SPEC, stop=("\n", ""))}, "expected a tuple of texts, none of them"),
        ({"generate": odd(SPEC, max_tokens=0)}, "'max_tokens' is 0; expected a whole number"),
        ({"generate": odd(SPEC, extractor="last")}, "Unknown extractor 'last'"),
        ({"template": "Q: "}, "'template' is 'Q: '; expected a Template"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_task_is_told(changes, says):
    with pytest.raises(UserError) as caught:
        load_changed(**changes)
    assert says in str(caught.value)


def test_lists_become_tuples_and_nothing_else_changes():
    spec = odd(SPEC, stop=list(SPEC.stop))
    items = [odd(FRANCE, choices=list(FRANCE.choices)), BEN]
    (task,) = load_changed(items=items, fewshot=[SHOWN], generate=spec)
    assert task == small_task()


def test_the_same_question_twice_is_one_cluster():
    again = odd(BEN, id="small/again")
    (task,) = load_changed(items=(FRANCE, BEN, again))
    assert [item.cluster for item in task.items] == [None, f"as {BEN.id}", f"as {BEN.id}"]


def by_name(*names: str) -> list[str]:
    return [task.name for task in load_tasks(names, seed=0, limit=8, fewshot=None)]


def test_a_task_that_is_named_twice_is_refused(tmp_path, monkeypatch):
    (tmp_path / "mine.jsonl").write_text('{"question": "Who?", "answer": "Anna"}')
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.jsonl").write_text('{"question": "Who?", "answer": "Ben"}')
    monkeypatch.chdir(tmp_path)
    for first, second, both in (
        ("facts", "facts", "'facts'"),
        ("brackets:depth=3", "brackets:depth=3", "'brackets:depth=3'"),
        ("mine.jsonl", "mine.jsonl", "'mine.jsonl'"),
        ("mine.jsonl", "./mine.jsonl", "'mine.jsonl' and './mine.jsonl'"),
    ):
        with pytest.raises(UserError, match=r"is given twice, as .* expected each task once") as it:
            by_name("kv-words", first, second)
        assert f"as {both};" in str(it.value)
    with pytest.raises(
        UserError, match=r"the same name 'mine' \(from 'mine.jsonl' and 'other/mine"
    ):
        by_name("mine.jsonl", "other/mine.jsonl")


def test_sets_may_share_tasks_with_others():
    assert by_name("knowledge", "facts", "knowledge", "facts:rarity=2") == [
        "facts", "facts:rarity=2",
    ]  # fmt: skip


@pytest.mark.parametrize("name", [*task_names(), *task_names("toy")])
def test_built_in_suites_are_whole(name):
    task = load_task(name)
    assert check_own_task(task) == task
