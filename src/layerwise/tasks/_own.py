"""A user's own ``Task``, checked before anything is asked: types, items, stops, chance levels."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from layerwise.errors import UserError, shown
from layerwise.tasks.extractors import extractor
from layerwise.tasks.items import Corruption, Item, repeats_joined
from layerwise.tasks.task import GenerateSpec, Task, Template


def check_own_task(task: Task) -> Task:
    """The task, with tuples where it had lists."""
    where = f"Task {_text('A task', 'name', task.name)!r}"
    for field, value in (("capability", task.capability), ("source", task.source)):
        _text(where, field, value)
    for field, value in (("description", task.description), ("system", task.system)):
        _text(where, field, value, empty=True)
    items, fewshot = (_items(where, field, getattr(task, field)) for field in ("items", "fewshot"))
    if not items:
        raise UserError(f"{where} has no items; expected at least one; add the items.")
    if not isinstance(task.other_fewshot, (tuple, list)):
        raise _bad(where, "other_fewshot", task.other_fewshot, "a tuple of draws of examples")
    others = tuple(_items(where, "other_fewshot", draw) for draw in task.other_fewshot)
    unasked = _items(where, "unasked", task.unasked)
    for draw in (fewshot, *others):
        _refuse_twins(where, items, draw)
    _check_template(where, task.template)
    _check_chance(where, task.chance)
    whole = repeats_joined((*items, *unasked))
    return replace(
        task, items=whole[: len(items)], unasked=whole[len(items) :], fewshot=fewshot,
        generate=_spec(where, task.generate), other_fewshot=others, answer_tokens=0,
    )  # fmt: skip


def _bad(where: str, field: str, value: object, expected: str) -> UserError:
    return UserError(f"{where}: {field!r} is {shown(value)}; expected {expected}.")


def _text(where: str, field: str, value: Any, *, empty: bool = False) -> str:
    if not isinstance(value, str) or not (empty or value.strip()):
        raise _bad(where, field, value, "a text" if empty else "a text that is not empty")
    if "\0" in value or not _is_whole(value):
        raise _bad(where, field, value, "a text of whole characters, none of them null")
    return value


def _is_whole(text: str) -> bool:
    """Whether a text has no half of a character (a surrogate), which no file can hold."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _texts(where: str, field: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, (tuple, list)):
        raise _bad(where, field, value, "a tuple of texts, such as ('a', 'b')")
    return tuple(_text(where, field, text) for text in value)


def _items(where: str, field: str, value: Any) -> tuple[Item, ...]:
    if not isinstance(value, (tuple, list)) or not all(isinstance(item, Item) for item in value):
        raise _bad(where, field, value, "a tuple of Item values")
    return tuple(_item(where, item) for item in value)


def _item(where: str, item: Item) -> Item:
    place = f"Item {_text(where, 'id', item.id)!r} of {where[:1].lower()}{where[1:]}"
    _text(place, "question", item.question)
    _text(place, "answer", item.answer)
    for field in ("context", "worked", "pair", "group", "cluster"):
        if getattr(item, field) is not None:
            _text(place, field, getattr(item, field))
    choices, aliases = (
        _texts(place, field, getattr(item, field)) for field in ("choices", "aliases")
    )
    if len(set(choices)) < len(choices):
        raise UserError(f"{place} has equal choices; expected different ones; remove one of them.")
    if choices and item.answer not in choices:
        raise UserError(f"{place} has an answer that is not among its choices; add it to them.")
    _check_corruption(place, item.corruption)
    return replace(item, choices=choices, aliases=aliases)


def _check_corruption(place: str, change: Any) -> None:
    if change is None:
        return
    if not isinstance(change, Corruption):
        raise _bad(place, "corruption", change, "a Corruption, or None")
    _text(f"{place}, corruption", "question", change.question)
    _text(f"{place}, corruption", "answer", change.answer)
    if change.context is not None:
        _text(f"{place}, corruption", "context", change.context)


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


def _check_template(where: str, template: Any) -> None:
    if not isinstance(template, Template):
        raise _bad(where, "template", template, "a Template")
    for field in fields(Template):
        _text(f"{where}, template", field.name, getattr(template, field.name), empty=True)


def _check_chance(where: str, chance: Any) -> None:
    if not isinstance(chance, Mapping):
        raise _bad(where, "chance", chance, "a level for each protocol, such as {'letter': 0.25}")
    for protocol, level in chance.items():
        number = isinstance(level, (int, float)) and not isinstance(level, bool)
        if not number or not math.isfinite(level) or not 0 <= level <= 1:
            raise UserError(
                f"{where}: the chance level under {shown(protocol)} is {shown(level)}; expected "
                "the share that guessing gets right, from 0 to 1."
            )


def _spec(where: str, spec: Any) -> GenerateSpec:
    if not isinstance(spec, GenerateSpec):
        raise _bad(where, "generate", spec, "a GenerateSpec")
    if not isinstance(spec.stop, (tuple, list)) or not all(
        isinstance(stop, str) and stop for stop in spec.stop
    ):
        raise _bad(
            where, "stop", spec.stop, "a tuple of texts, none of them empty, for every text ends "
            "with the empty one"
        )  # fmt: skip
    most = spec.max_tokens
    if not isinstance(most, int) or isinstance(most, bool) or most < 1:
        raise _bad(where, "max_tokens", most, "a whole number, 1 or more")
    extractor(_text(where, "extractor", spec.extractor))
    return replace(spec, stop=tuple(spec.stop))
