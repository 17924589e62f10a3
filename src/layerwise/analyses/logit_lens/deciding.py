"""Which tokens of an answer tell it apart from the item's other options, token by token."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from layerwise.errors import UserError
from layerwise.runs.setup import Setup
from layerwise.sweep import LogLikelihood
from layerwise.sweep.requests import Tokens
from layerwise.tasks import Task, TaskRequest
from layerwise.tasks.items import Item


@dataclass(frozen=True)
class Deciding:
    """The tokens of an item's answer that tell it apart.

    Attributes:
        gold: the request of the right option.
        start: tokens that all options share; the model is given them.
        tokens: those from there on, up to where every other option differs.
        options: at each of them, what it may be in options that are the same before it; empty
            where the item has no choices.
        n_options: how many options these tokens tell apart; 0 where the item has no choices.
    """

    gold: TaskRequest
    start: int
    tokens: Tokens
    options: tuple[frozenset[int], ...] = ()
    n_options: int = 0


def deciding_tokens(setup: Setup, task: Task, protocol: str) -> Iterator[Deciding]:
    """The deciding tokens of each item; none of one whose answer is another option's beginning.

    Answers of items without choices are told apart from those of the task's other such items.
    """
    shared = _shared_by_task(setup, task, protocol)
    for item in task.items:
        requests = setup.requests(task, choosable(task, item, protocol), protocol)
        others = [answer_tokens(request) for request in requests if not request.gold]
        for gold in (request for request in requests if request.gold):
            deciding = _deciding(gold, others, shared)
            if deciding is not None:
                yield deciding


def _deciding(gold: TaskRequest, others: list[Tokens], shared: int) -> Deciding | None:
    answer = answer_tokens(gold)
    if not others:
        return Deciding(gold, shared, answer[shared : shared + 1])
    start = min(n_shared(answer, other) for other in others)
    stop = 1 + max(n_shared(answer, other) for other in others)
    if stop > len(answer):
        return None
    every = [answer, *others]
    options = tuple(
        frozenset(other[at] for other in every if other[:at] == answer[:at] and at < len(other))
        for at in range(start, stop)
    )
    n_options = len({other[start:stop] for other in every})
    return Deciding(gold, start, answer[start:stop], options, n_options)


def _shared_by_task(setup: Setup, task: Task, protocol: str) -> int:
    """Tokens that the answers of all items without choices begin with, but for the last one."""
    bare = [item for item in task.items if not item.choices]
    answers = [
        answer_tokens(request)
        for item in bare
        for request in setup.requests(task, choosable(task, item, protocol), protocol)
    ]
    if len(set(answers)) < 2:
        return 0
    return min(min(n_shared(answers[0], answer), len(answer) - 1) for answer in answers)


def n_shared(first: Tokens, second: Tokens) -> int:
    """How many tokens two answers share at their beginning."""
    same = (a == b for a, b in zip(first, second, strict=False))
    return next((at for at, equal in enumerate(same) if not equal), min(len(first), len(second)))


def answer_tokens(request: TaskRequest) -> Tokens:
    """The tokens of a request's answer."""
    assert isinstance(request.request, LogLikelihood)
    return request.request.continuation


def choosable(task: Task, item: Item, protocol: str) -> Item:
    """An item without choices can still be read: only its answer is asked for."""
    if item.choices:
        return item
    if protocol == "letter":
        raise UserError(
            f"Item {item.id!r} of task {task.name!r} has no choices, which protocol 'letter' "
            "needs; add choices or use protocol 'continuation'."
        )
    return replace(item, choices=(item.answer,))
