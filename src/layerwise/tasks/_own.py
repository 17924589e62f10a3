"""Users' own tasks, checked before anything is asked: each ``Task``, and pairs between several."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from layerwise.errors import UserError, short_repr
from layerwise.tasks._lines import is_whole
from layerwise.tasks.extractors import extractor
from layerwise.tasks.items import Corruption, Item, bad_choices, closed_book, cluster_repeats
from layerwise.tasks.task import GenerateSpec, Task, Template

_TEMPLATE = " ".join(field.name for field in fields(Template))


def check_own_task(task: Task) -> Task:
    """The task, with tuples where it had lists."""
    where = f"Task {_text('A task', 'name', task.name)!r}"
    _check_texts(where, task, "capability source", empty="description system")
    items, fewshot, unasked = (
        _items(where, field, getattr(task, field)) for field in ("items", "fewshot", "unasked")
    )
    if not items:
        raise UserError(f"{where} has no items; expected at least one; add the items.")
    draws = _read_sequence(
        where, "other_fewshot", task.other_fewshot, "a tuple of draws of examples"
    )
    others = tuple(_items(where, "other_fewshot", draw) for draw in draws)
    for draw in (fewshot, *others):
        _refuse_twins(where, items, draw)
    _check_kind(where, "template", task.template, Template, "a Template")
    _check_texts(f"{where}, template", task.template, empty=_TEMPLATE)
    _check_chance(where, task.chance)
    _check_kind(where, "generate", task.generate, GenerateSpec, "a GenerateSpec")
    whole = cluster_repeats((*items, *unasked))
    return replace(
        task, items=whole[: len(items)], unasked=whole[len(items) :], fewshot=fewshot,
        generate=_spec(where, task.generate), other_fewshot=others, answer_tokens=0,
    )  # fmt: skip


def _bad(where: str, field: str, value: object, expected: str) -> UserError:
    return UserError(f"{where}: {field!r} is {short_repr(value)}; expected {expected}.")


def _check_kind(where: str, field: str, value: object, kind: Any, expected: str) -> None:
    if not isinstance(value, kind):
        raise _bad(where, field, value, expected)


def _read_sequence(where: str, field: str, value: Any, expected: str) -> tuple[Any, ...]:
    _check_kind(where, field, value, (tuple, list), expected)
    return tuple(value)


def _text(where: str, field: str, value: Any, *, empty: bool = False) -> str:
    if not isinstance(value, str) or not (empty or value.strip()):
        raise _bad(where, field, value, "a text" if empty else "a text that is not empty")
    if not is_whole(value):
        raise _bad(where, field, value, "a text of whole characters, none of them null")
    return value


def _check_texts(
    where: str, value: Any, filled: str = "", *, empty: str = "", optional: str = ""
) -> None:
    """Check fields that are texts, by their names; some may be empty, some None."""
    for field in f"{filled} {empty} {optional}".split():
        text = getattr(value, field)
        if text is not None or field not in optional.split():
            _text(where, field, text, empty=field in empty.split())


def _items(where: str, field: str, value: Any) -> tuple[Item, ...]:
    items = _read_sequence(where, field, value, "a tuple of Item values")
    if not all(isinstance(item, Item) for item in items):
        raise _bad(where, field, value, "a tuple of Item values")
    return tuple(_item(where, item) for item in items)


def _item(where: str, item: Item) -> Item:
    place = f"Item {_text(where, 'id', item.id)!r} of {where[:1].lower()}{where[1:]}"
    _check_texts(place, item, "question answer", optional="context worked pair group cluster")
    texts: dict[str, Any] = {}
    for field in ("choices", "aliases"):
        expected = "a tuple of texts, such as ('a', 'b')"
        listed = _read_sequence(place, field, getattr(item, field), expected)
        texts[field] = tuple(_text(place, field, text) for text in listed)
    if problem := bad_choices(item):
        raise UserError(f"{place} {problem}")
    if item.corruption is not None:
        _check_kind(place, "corruption", item.corruption, Corruption, "a Corruption, or None")
        changed = f"{place}, corruption"
        _check_texts(changed, item.corruption, "question answer", optional="context")
    return replace(item, **texts)


def _refuse_twins(where: str, items: tuple[Item, ...], fewshot: tuple[Item, ...]) -> None:
    twice = [name for name, n in Counter(item.id for item in (*items, *fewshot)).items() if n > 1]
    if twice:
        raise UserError(
            f"{where} has the id {twice[0]!r} twice; expected each once among its items and "
            "few-shot examples; rename one, or leave it out."
        )
    by_question = {(item.context, item.question): item.id for item in items}
    for example in fewshot:
        same = by_question.get((example.context, example.question))
        if same is not None:
            raise UserError(
                f"{where} shows the answer to its item {same!r} as few-shot example "
                f"{example.id!r}; expected other questions there; remove one of the two."
            )


def _check_chance(where: str, chance: Any) -> None:
    expected = "a level for each protocol, such as {'letter': 0.25}"
    _check_kind(where, "chance", chance, Mapping, expected)
    for protocol, level in chance.items():
        number = isinstance(level, (int, float)) and not isinstance(level, bool)
        if not number or not math.isfinite(level) or not 0 <= level <= 1:
            raise UserError(
                f"{where}: the chance level under {short_repr(protocol)} is "
                f"{short_repr(level)}; expected "
                "the share that guessing gets right, from 0 to 1."
            )


def _spec(where: str, spec: GenerateSpec) -> GenerateSpec:
    expected = "a tuple of texts, none of them empty, for every text ends with the empty one"
    stops = _read_sequence(where, "stop", spec.stop, expected)
    if not all(isinstance(stop, str) and stop for stop in stops):
        raise _bad(where, "stop", spec.stop, expected)
    most = spec.max_tokens
    if not isinstance(most, int) or isinstance(most, bool) or most < 1:
        raise _bad(where, "max_tokens", most, "a whole number, 1 or more")
    extractor(_text(where, "extractor", spec.extractor))
    return replace(spec, stop=stops)


def refuse_false_pairs(tasks: Sequence[Task]) -> None:
    """Refuse items that name another one as asking the same without the passage, but do not."""
    # Names of items that are not among the tasks are passed over: such a task is asked by itself.
    # So are built-in suites, of which one may be asked with several arguments: their clusters say
    # which belong together.
    known: dict[str, list[tuple[Task, Item]]] = {}
    for task in tasks:
        for item in task.items:
            known.setdefault(item.id, []).append((task, item))
    for task in tasks:
        if task.source == "built-in":
            continue
        named = Counter(filter(None, map(closed_book, task.items)))
        twice = [name for name, n in named.items() if n > 1]
        if twice:
            raise UserError(
                f"Several items of task {task.name!r} are paired with {twice[0]!r}: expected each "
                "question once with a passage; put other passages into tasks of their own."
            )
        for item in task.items:
            wrong = _false_pair(task, item, known.get(closed_book(item) or "", []))
            if wrong:
                raise UserError(
                    f"Item {item.id!r} of task {task.name!r} is paired with {item.pair!r}{wrong}: "
                    "expected one item of another task, which asks the same question without the "
                    "passage; pair it with that one, or ask the tasks in two runs."
                )


def _false_pair(task: Task, item: Item, twins: Sequence[tuple[Task, Item]]) -> str | None:
    """Sentence on what is wrong with an item's pair; None if nothing is."""
    if any(other is task for other, _ in twins):
        return ", an item of the same task"
    if len(twins) > 1:
        return f", which stands in the tasks {' and '.join(other.name for other, _ in twins)}"
    for other, twin in twins:
        if twin.answer != item.answer:
            return (
                f"of task {other.name!r}, whose answer is {twin.answer!r} and not {item.answer!r}"
            )
        if closed_book(twin) == item.id:
            return ", which has a passage and names it in turn"
    return None
