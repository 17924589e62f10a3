"""The blind control's items: other questions, the same context, options and answer."""

from __future__ import annotations

from dataclasses import replace

import pytest

from layerwise import stats
from layerwise.tasks import load_task, task_names, with_other_questions
from tests.analysis import word_task


@pytest.mark.parametrize("name", task_names())
def test_only_the_question_is_anothers(name):
    task = load_task(name, limit=40)
    found = with_other_questions(task, task.items)
    by_id = {item.id: item for item in task.items}
    assert list(found) == [item.id for item in task.items]
    for item in task.items:
        others = found[item.id]
        assert len(others) == len({other.question for other in others}) == 3
        for other in others:
            own, _, asked = other.id.partition(" asked ")
            assert own == item.id
            assert by_id[asked].question == other.question != item.question
            assert by_id[asked].answer not in (item.answer, *item.aliases)
            assert replace(other, id=item.id, question=item.question) == item


def test_questions_are_of_the_same_group_where_it_has_enough():
    task = load_task("facts", limit=120)
    groups = {item.question: item.group for item in task.items}
    sizes = {group: list(groups.values()).count(group) for group in groups.values()}
    near = [
        groups[other.question] == item.group
        for item in task.items
        for other in with_other_questions(task, [item])[item.id]
        if sizes[item.group] > 6
    ]
    assert len(near) > 100
    assert sum(near) > 0.9 * len(near)


def test_the_seed_decides_and_the_rest_of_the_items_asked_does_not():
    task = load_task("kv-words", limit=20)
    whole = with_other_questions(task, task.items)
    assert with_other_questions(task, task.items[3:5]) == {
        item.id: whole[item.id] for item in task.items[3:5]
    }
    assert with_other_questions(task, task.items, seed=1) != whole


def test_there_are_none_where_all_ask_the_same_or_have_the_same_answer():
    task = word_task(4)
    same = [replace(item, question="Which?") for item in task.items]
    assert set(with_other_questions(replace(task, items=tuple(same)), same).values()) == {()}
    alike = [replace(item, aliases=tuple(i.answer for i in task.items)) for item in task.items]
    assert set(with_other_questions(replace(task, items=tuple(alike)), alike).values()) == {()}
    one = with_other_questions(replace(task, items=task.items[:1]), task.items[:1])
    assert list(one.values()) == [()]


def test_of_an_ordinary_task_questions_are_drawn_in_the_order_of_a_permutation():
    task = word_task(40)
    for item, others in with_other_questions(task, task.items, seed=3).items():
        rng = stats.generator(3, "other questions", task.name, item)
        own = next(one for one in task.items if one.id == item)
        drawn = [task.items[i] for i in rng.permutation(40)]
        fit = [one.question for one in drawn if one.answer != own.answer]
        expected = list(dict.fromkeys(q for q in fit if q != own.question))[:3]
        assert [one.question for one in others] == expected
