"""Tasks of a model, in its language, with their first items, and those that do not fit."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from layerwise.errors import (
    LongItemsWarning,
    NoSignalPossibleWarning,
    TooLongError,
    UserError,
    count_noun,
)
from layerwise.models.instance.facts import tokenizer_language
from layerwise.stats.signals.power import items_for_any_signal
from layerwise.tasks import Task, expand_task_names, load_task, task_names
from layerwise.tasks._own import check_own_task, refuse_false_pairs
from layerwise.tasks.items import Item
from layerwise.tasks.registry import TEXT, is_suite
from layerwise.tasks.task import take

_NAMED = 3


def without_long_items(
    pieces: Sequence[tuple[Task, str]], refuse: Callable[[Task, Item, str], None]
) -> tuple[tuple[Task, ...], dict[str, tuple[str, ...]]]:
    """Tasks without items that are too long under a protocol, and their ids; with a warning."""
    tasks = {task.name: task for task, _ in pieces}
    left_out, kept, parts = {}, [], []
    for name, task in tasks.items():
        protocols = [protocol for other, protocol in pieces if other is task]
        long = [item.id for item in task.items if _is_long(refuse, task, item, protocols)]
        n_items = len(task.items)
        if len(long) == n_items:
            raise UserError(
                f"All items of task {name!r} need more tokens than the model takes; take fewer "
                "few-shot examples or shorter contexts."
            )
        if long:
            left_out[name] = tuple(long)
            parts.append(f"{len(long)} of {count_noun(n_items, 'item')} of {name} ({_some(long)})")
            apart = set(long)
            task = replace(task, items=tuple(i for i in task.items if i.id not in apart))
        kept.append(task)
    if parts:
        warnings.warn(
            f"Left out, as the model's context has no room for them: {'; '.join(parts)}.",
            LongItemsWarning,
            stacklevel=5,
        )
    return tuple(kept), left_out


def _is_long(
    refuse: Callable[[Task, Item, str], None], task: Task, item: Item, protocols: Sequence[str]
) -> bool:
    for protocol in protocols:
        try:
            refuse(task, item, protocol)
        except TooLongError:
            return True
        except UserError:
            # What else is wrong with an item, the analysis that asks it says.
            continue
    return False


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (" …" if len(names) > _NAMED else "")


def warn_of_few_items(pieces: Sequence[tuple[Task, str]]) -> None:
    """Warn where even a model that is always right could not be told from one that guesses."""
    n_tests, hopeless = len(pieces), []
    for task, protocol in pieces:
        chance, n = task.chance.get(protocol, 0.0), len(task.items)
        needed = items_for_any_signal(chance, n_tests)
        if needed is None or n < needed:
            takes = "no number is enough" if needed is None else f"{needed} are needed"
            hopeless.append(f"{task.name} ({protocol}) has {count_noun(n, 'item')}, {takes}")
    if hopeless:
        more = f"; and {len(hopeless) - _NAMED} more" if len(hopeless) > _NAMED else ""
        warnings.warn(
            "Too few items for any signal: even if all are right, guessing is not excluded "
            f"(corrected for {count_noun(n_tests, 'test')}). {'; '.join(hopeless[:_NAMED])}{more}.",
            NoSignalPossibleWarning,
            stacklevel=4,
        )


TaskLike = str | Task


def load_tasks(
    tasks: Iterable[TaskLike],
    *,
    seed: int,
    limit: int | None,
    fewshot: int | None,
    language: str = TEXT,
) -> tuple[Task, ...]:
    """Tasks by name (capabilities stand for their suites), and ready-made ones as they are."""
    loaded: list[Task] = []
    given: dict[str, str] = {}  # the names that tasks were asked for by, by the tasks' hashes
    for task in tasks:
        if isinstance(task, Task):
            loaded.append(take(check_own_task(task), limit, fewshot))
            continue
        names = expand_task_names([task], language)
        members = [load_task(n, seed=seed, limit=limit, fewshot=fewshot) for n in names]
        loaded += members
        if is_suite(task) or names == [task]:  # sets may share tasks
            (one,) = members
            if one.hash in given:
                as_named = dict.fromkeys((given[one.hash], task))
                raise UserError(
                    f"Task {one.name!r} is given twice, as {' and '.join(map(repr, as_named))}; "
                    "expected each task once; leave one out."
                )
            given[one.hash] = task
    unique: dict[str, Task] = {}
    for task in loaded:
        other = unique.setdefault(task.name, task)
        if other.hash != task.hash:
            raise UserError(
                f"Two different tasks have the same name {task.name!r} (from {other.source!r} and "
                f"{task.source!r}); expected a name for each; rename one of them."
            )
    refuse_false_pairs([*unique.values()])
    return tuple(unique.values())


def refuse_no_chance(task: Task, protocols: Iterable[str]) -> None:
    """Refuse a task that does not say how often guessing is right, which all tests need."""
    for protocol in protocols:
        if protocol not in task.chance:
            raise UserError(
                f"Task {task.name!r} gives no chance level for protocol {protocol!r}: expected one "
                "for each protocol that it is asked under; add it, or leave the protocol out."
            )


def refuse_unknown_words(tokenizer: Any, tasks: Iterable[Task]) -> None:
    """Refuse to ask a model of a toy language in words that it does not have."""
    language = tokenizer_language(tokenizer)
    if language == TEXT:
        return
    known = tokenizer.get_vocab()
    for task in tasks:
        texts = [t for item in task.items for t in (item.context, item.question, item.answer)]
        unknown = [word for text in texts for word in (text or "").split() if word not in known]
        if unknown:
            raise UserError(
                f"Task {task.name!r} has words that the model does not know, such as "
                f"{unknown[0]!r}: it speaks a toy language only; expected "
                f"{', '.join(task_names(language))}, or 'all' for these."
            )
