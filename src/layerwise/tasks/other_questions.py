"""The blind control: an item's context and options under the questions of other items.

A model that answers right without the right question was not asked what the task is called after:
it read its context, or chose among options that give themselves away.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from layerwise import stats
from layerwise.tasks.items import Item
from layerwise.tasks.task import Task

# Three other questions for each item: the test by them then needs little more items than one
# against a level that is known (docs/statistics/signal.md).
N_OTHERS = 3
# Of more items than this, so many are drawn and looked at for each item; of fewer, all.
_MOST_TRIED = 2000


def with_other_questions(
    task: Task, items: Iterable[Item], *, n: int = N_OTHERS, seed: int = 0
) -> dict[str, tuple[Item, ...]]:
    """Items with the questions of others of their task in place of their own.

    The others are of the same group (as ``Item.group`` has it) as far as it has enough; neither
    their question nor any spelling of their answer is the item's own. Context, options and the
    answer that counts as right stay the item's. Of more than 2,000 items each is asked what as
    many of them, drawn at random, have to ask.

    Args:
        task: where questions are taken from.
        items: the items, of this task.
        n: how many other questions, at most.
        seed: decides which.

    Returns:
        By item id, the item with each of its other questions; fewer than ``n``, or none, where
        the task has no more. The id says whose question it is.
    """
    by_group: dict[str | None, list[Item]] = defaultdict(list)
    for item in task.items:
        by_group[item.group].append(item)
    by_item = {}
    for item in items:
        rng = stats.generator(seed, "other questions", task.name, item.id)
        right, questions = {item.answer, *item.aliases}, dict[str, Item]()
        alike = by_group[item.group]
        # Of its group, and then of all, until there are enough.
        for known in (alike, task.items) if len(alike) < len(task.items) else (alike,):
            for other in _in_random_order(rng, known) if len(questions) < n else ():
                apart = right.isdisjoint((other.answer, *other.aliases))
                if len(questions) < n and apart and other.question != item.question:
                    questions.setdefault(other.question, other)
        by_item[item.id] = tuple(
            replace(
                item,
                id=f"{item.id} asked {other.id}",
                question=other.question,
                turns=other.turns,
            )
            for other in questions.values()
        )
    return by_item


def _in_random_order(rng: np.random.Generator, items: Sequence[Item]) -> Iterator[Item]:
    """Items in random order; of many as many as are tried."""
    if len(items) > _MOST_TRIED:
        order = rng.choice(len(items), size=_MOST_TRIED, replace=False)
    else:
        order = rng.permutation(len(items))
    return (items[place] for place in order.tolist())
