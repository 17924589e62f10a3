"""Items that are asked twice: from memory (closed book), and with a passage that tells (open book).

The item with the passage names the other one (``Item.pair``). Nothing is asked here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from layerwise.errors import UserError
from layerwise.tasks.items import Item
from layerwise.tasks.task import Task

BUILT_IN = "built-in"


def closed_book(item: Item) -> str | None:
    """The id of the item that asks the same without the passage; None if there is none."""
    return None if item.context is None else item.pair


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
        if task.source == BUILT_IN:
            continue
        _refuse_twice(task, [closed_book(item) for item in task.items])
        for item in task.items:
            twin = closed_book(item)
            if twin is not None:
                _refuse(task, item, known.get(twin, []))


def _refuse_twice(task: Task, named: Sequence[str | None]) -> None:
    twice = [name for name, n in Counter(named).items() if n > 1 and name is not None]
    if twice:
        raise UserError(
            f"Several items of task {task.name!r} are paired with {twice[0]!r}: expected each "
            "question once with a passage; put other passages into tasks of their own."
        )


def _refuse(task: Task, item: Item, twins: Sequence[tuple[Task, Item]]) -> None:
    where = f"Item {item.id!r} of task {task.name!r} is paired with {item.pair!r}"
    if any(other is task for other, _ in twins):
        raise UserError(
            f"{where}, an item of the same task: expected one of another task, which asks the same "
            "without the passage; put them into two tasks."
        )
    if len(twins) > 1:
        raise UserError(
            f"{where}, which stands in the tasks {' and '.join(t.name for t, _ in twins)}: "
            "expected one item of that id; rename the others."
        )
    for other, twin in twins:
        if twin.answer != item.answer:
            raise UserError(
                f"{where} of task {other.name!r}, whose answer is {twin.answer!r} and not "
                f"{item.answer!r}: expected the same question; pair it with another item, make "
                "both tasks with the same seed and options, or ask them in two runs."
            )
        if closed_book(twin) == item.id:
            raise UserError(
                f"{where}, which has a passage and names it in turn: expected the pair to be named "
                "by the item that has the passage with the answer; leave it out of the other one."
            )
