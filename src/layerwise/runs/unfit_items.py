"""Items that a run cannot use: too long for the model, or too few to show anything."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace

from layerwise.errors import (
    LongItemsWarning,
    NoSignalPossibleWarning,
    TooLongError,
    UserError,
    counted,
)
from layerwise.stats.signals.power import items_for_any_signal
from layerwise.tasks import Task
from layerwise.tasks.items import Item

_NAMED = 3


def without_long_items(
    pieces: Sequence[tuple[Task, str]], refuse: Callable[[Task, Item, str], None]
) -> tuple[tuple[Task, ...], dict[str, tuple[str, ...]]]:
    """Tasks without items that are too long under a protocol, and their ids; with a warning.

    Args:
        pieces: every task under every protocol.
        refuse: refuses an item that cannot be put to the model.
    """
    tasks = {task.name: task for task, _ in pieces}
    left_out = {}
    for name, task in tasks.items():
        protocols = [protocol for other, protocol in pieces if other is task]
        long = [item.id for item in task.items if _is_long(refuse, task, item, protocols)]
        if len(long) == len(task.items):
            raise UserError(
                f"All items of task {name!r} need more tokens than the model takes; take fewer "
                "few-shot examples or shorter contexts."
            )
        if long:
            left_out[name] = tuple(long)
    if left_out:
        parts = [
            f"{len(long)} of {counted(len(tasks[name].items), 'item')} of {name} ({_some(long)})"
            for name, long in left_out.items()
        ]
        warnings.warn(
            f"Left out, as the model's context has no room for them: {'; '.join(parts)}.",
            LongItemsWarning,
            stacklevel=5,
        )
    return tuple(_without(task, left_out.get(name, ())) for name, task in tasks.items()), left_out


def _without(task: Task, left_out: Sequence[str]) -> Task:
    out = set(left_out)
    kept = tuple(item for item in task.items if item.id not in out)
    return replace(task, items=kept) if left_out else task


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
            hopeless.append(f"{task.name} ({protocol}) has {counted(n, 'item')}, {takes}")
    if hopeless:
        more = f"; and {len(hopeless) - _NAMED} more" if len(hopeless) > _NAMED else ""
        warnings.warn(
            "Too few items for any signal: even if all are right, guessing is not excluded "
            f"(corrected for {counted(n_tests, 'test')}). {'; '.join(hopeless[:_NAMED])}{more}.",
            NoSignalPossibleWarning,
            stacklevel=4,
        )
