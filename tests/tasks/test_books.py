"""Items asked with and without a passage: who names whom, and pairs that are none."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from layerwise.errors import UserError
from layerwise.models.organisms.language import ORGANISM, WIRED
from layerwise.runs.task_loading import load_tasks
from layerwise.tasks import Task, load_task
from layerwise.tasks.items import closed_book
from layerwise.tasks.suites import toy


def own(task: Task) -> Task:
    return replace(task, source="mine")


def loaded(*tasks: str | Task) -> tuple[Task, ...]:
    return load_tasks(tasks, seed=0, limit=None, fewshot=None)


def with_first(task: Task, **changes: Any) -> Task:
    return replace(task, items=(replace(task.items[0], **changes), *task.items[1:]))


@pytest.fixture(scope="module")
def toy_pair() -> tuple[Task, Task]:
    return toy.facts(WIRED), toy.facts_open_book(WIRED)


def test_the_item_with_the_passage_names_the_one_without() -> None:
    closed, opened = loaded("facts", "facts-open-book")
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
    _, opened = loaded(*(str(tmp_path / f"{name}.jsonl") for name in ("closed", "open")))
    assert [closed_book(item) for item in opened.items] == ["one"]
    (tmp_path / "bad.jsonl").write_text(json.dumps(row | {"pair": "two"}) + "\n")
    with pytest.raises(UserError, match="line 1: field 'pair' is there without a 'context'; the"):
        load_task(str(tmp_path / "bad.jsonl"))


def test_pairs_that_are_none_are_refused(toy_pair: tuple[Task, Task]) -> None:
    closed, opened = map(own, toy_pair)
    first, second = closed.items[:2]
    other = f"is paired with '{first.id}'"
    with pytest.raises(UserError, match=f"whose answer is '{second.answer}' and not '"):
        loaded(closed, replace(opened, items=(replace(opened.items[0], pair=second.id),)))
    with pytest.raises(UserError, match="open-book/0000', which has a passage and names it in"):
        loaded(with_first(closed, pair=opened.items[0].id), opened)
    with pytest.raises(UserError, match=f"{other}, which stands in the tasks wired-facts and more"):
        loaded(closed, replace(closed, name="more"), opened)
    twice = {"pair": opened.items[1].pair, "answer": opened.items[1].answer}
    with pytest.raises(UserError, match=f"Several items of .* are paired with '{twice['pair']}'"):
        loaded(with_first(opened, **twice, choices=opened.items[1].choices))
    same = opened.items[1].id
    with pytest.raises(UserError, match=f"with '{same}', an item of the same task"):
        loaded(replace(opened, items=(replace(opened.items[0], pair=same), opened.items[1])))
