"""What a protocol makes of an item, as a value, and the refusal of items that it cannot ask.

How the requests are made is told in ``protocols``, how they are scored in ``scoring``.
"""

from __future__ import annotations

from dataclasses import dataclass

from layerwise.errors import UserError, unknown_name
from layerwise.sweep.requests import Generate, Request
from layerwise.tasks._prompts import LETTERS
from layerwise.tasks.items import Item
from layerwise.tasks.task import Task

PROTOCOLS = ("letter", "continuation", "generate")


@dataclass(frozen=True)
class TaskRequest:
    """A request, and what it was made from.

    Attributes:
        item: item id.
        task: the task's name.
        protocol: one of ``PROTOCOLS``.
        context: the prompt as text, without the special tokens that the tokenizer adds.
        continuation: the text that is scored; None under ``generate``.
        gold: whether this is the gold option; true under ``generate``.
        request: the same as token ids.
        answer: the gold answer under ``generate``; None elsewhere, where an option is gold.
    """

    item: str
    task: str
    protocol: str
    context: str
    continuation: str | None
    gold: bool
    request: Request
    answer: str | None = None


def check_protocol(protocol: str) -> None:
    """Refuse a protocol that does not exist."""
    if protocol not in PROTOCOLS:
        raise unknown_name("protocol", protocol, PROTOCOLS)


def check_item(task: Task, item: Item, protocol: str) -> None:
    """Refuse an item that cannot be asked under a protocol."""
    check_protocol(protocol)
    if protocol == "generate":
        return
    where = f"Item {item.id!r} of task {task.name!r}"
    if not item.choices:
        raise UserError(
            f"{where} has no choices, which protocol {protocol!r} needs; add choices or use "
            "protocol 'generate'."
        )
    if len(set(item.choices)) < len(item.choices):
        raise UserError(f"{where} has equal choices; expected different ones; remove one of them.")
    if item.answer not in item.choices:
        raise UserError(f"{where} has an answer that is not among its choices; add it to them.")
    if protocol == "letter":
        _check_letters(task, item)


def check_length(request: TaskRequest, max_length: int | None, *, apart: bool = False) -> None:
    """Refuse a request that the model has no room for."""
    asked = request.request
    answer = asked.max_tokens if isinstance(asked, Generate) else len(asked.continuation)
    needed = max(len(asked.context), answer) if apart else len(asked.context) + answer
    if max_length is not None and needed > max_length:
        what = "prompt or answer" if apart else "prompt and answer"
        raise UserError(
            f"Item {request.item!r} of task {request.task!r} needs {needed} tokens ({what}), but "
            f"the model takes {max_length}; take fewer few-shot examples or a shorter context."
        )


def _check_letters(task: Task, item: Item) -> None:
    bare = [example.id for example in task.fewshot if example.answer not in example.choices]
    if bare:
        raise UserError(
            f"Few-shot example {bare[0]!r} of task {task.name!r} has no choices, which protocol "
            "'letter' needs; add choices, take no few-shot examples, or use another protocol."
        )
    most = max(len(one.choices) for one in (item, *task.fewshot))
    if most > len(LETTERS):
        raise UserError(
            f"Task {task.name!r} has a question with {most} choices, but there are "
            f"{len(LETTERS)} letters; leave some out or use protocol 'continuation'."
        )
