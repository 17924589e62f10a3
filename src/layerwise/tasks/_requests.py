"""Texts of an item under a protocol, as a value; and items that a protocol cannot ask."""

from __future__ import annotations

from dataclasses import dataclass, replace

from layerwise.errors import TooLongError, UserError, unknown_name
from layerwise.sweep.requests import Generate, Request

from .items import Item, bad_choices
from .task import Task, Template

PROTOCOLS = ("letter", "continuation", "generate")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


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
        option: the option that the prompt ends with; None where the option itself is scored.
    """

    item: str
    task: str
    protocol: str
    context: str
    continuation: str | None
    gold: bool
    request: Request
    answer: str | None = None
    option: str | None = None


def check_protocol(protocol: str) -> None:
    """Refuse a protocol that does not exist."""
    if protocol not in PROTOCOLS:
        raise unknown_name("protocol", protocol, PROTOCOLS)


def check_item(task: Task, item: Item, protocol: str) -> None:
    """Refuse an item that cannot be asked under a protocol."""
    check_protocol(protocol)
    where = f"Item {item.id!r} of task {task.name!r}"
    if item.ending is not None and protocol != "continuation":
        raise UserError(
            f"{where} scores the text behind its options, which protocol {protocol!r} cannot; "
            "use protocol 'continuation'."
        )
    if protocol == "generate":
        return
    if not item.choices:
        raise UserError(
            f"{where} has no choices, which protocol {protocol!r} needs; add choices or use "
            "protocol 'generate'."
        )
    if problem := bad_choices(item):
        raise UserError(f"{where} {problem}")
    if protocol != "letter":
        return
    bare = [example.id for example in task.fewshot if example.answer not in example.choices]
    if bare:
        raise UserError(
            f"Few-shot example {bare[0]!r} of task {task.name!r} has no choices, which protocol "
            "'letter' needs; add choices, take no few-shot examples, or use another protocol."
        )
    most = max(len(shown.choices) for shown in (item, *task.fewshot))
    if most > len(LETTERS):
        raise UserError(
            f"Task {task.name!r} has a question with {most} choices, but there are "
            f"{len(LETTERS)} letters; leave some out or use protocol 'continuation'."
        )


def check_length(request: TaskRequest, max_length: int | None, *, apart: bool = False) -> None:
    """Refuse a request that the model has no room for."""
    tokens = request.request
    answer = tokens.max_tokens if isinstance(tokens, Generate) else len(tokens.continuation)
    needed = max(len(tokens.context), answer) if apart else len(tokens.context) + answer
    if max_length is not None and needed > max_length:
        what = "prompt or answer" if apart else "prompt and answer"
        raise TooLongError(
            f"Item {request.item!r} of task {request.task!r} needs {needed} tokens ({what}), but "
            f"the model takes {max_length}; take fewer few-shot examples or a shorter context, or "
            "leave such items out (skip_long)."
        )


def task_template(task: Task, protocol: str) -> Template:
    """Text around questions and answers; letters have a cue and a separator of their own."""
    if protocol != "letter":
        return task.template
    return replace(
        task.template, answer_cue="\nAnswer:", delimiter=" ", answer_end="", separator="\n\n"
    )


def prompt(task: Task, item: Item, protocol: str = "continuation") -> str:
    """The text that an item is put to the model as, without a chat template."""
    # Few-shot examples with their answers, then the item up to where its answer begins.
    template, lettered = task_template(task, protocol), protocol == "letter"
    end = template.answer_end + template.separator
    before = "".join(
        _question_text(template, example, lettered)
        + template.delimiter
        + _answer(example, lettered)
        + end
        for example in task.fewshot
    )
    return before + _question_text(template, item, lettered)


def continuations(
    task: Task, item: Item, protocol: str, delimiter: str | None = None
) -> tuple[str, ...]:
    """The texts that are scored after the prompt, each behind the task's delimiter if None."""
    texts = LETTERS[: len(item.choices)] if protocol == "letter" else item.choices
    if item.ending is not None:
        texts = (item.ending,) * len(item.choices)
    if delimiter is None:
        delimiter = task_template(task, protocol).delimiter
    return tuple(delimiter + text for text in texts)


def turns(task: Task, item: Item, protocol: str) -> list[dict[str, str]]:
    """The same as turns of a chat: system prompt, examples, and the item as the user's last one."""
    template, lettered = task_template(task, protocol), protocol == "letter"
    said = [("system", task.system)] if task.system else []
    if item.turns and not lettered:
        said += item.turns
    else:
        for example in task.fewshot:
            answer = _answer(example, lettered)
            said += [("user", _question_text(template, example, lettered)), ("assistant", answer)]
        said.append(("user", _question_text(template, item, lettered)))
    if [role for role, _ in said[:2]] == ["system", "system"]:
        both = template.separator.join(content for _, content in said[:2])
        said[:2] = [("system", both)]
    return [{"role": role, "content": content} for role, content in said]


def with_option(item: Item, option: str) -> Item:
    """An item whose question, and the user's last turn, end with an option."""
    turns = item.turns
    if turns:
        *before, (role, content) = turns
        turns = (*before, (role, content + option))
    return replace(item, question=item.question + option, turns=turns)


def has_begun_answer(item: Item, protocol: str) -> bool:
    """True if an item's last turn is the beginning of an answer, up to the end of a word."""
    if not item.turns or protocol == "letter":
        return False
    role, content = item.turns[-1]
    return role == "assistant" and not content[-1:].isspace()


def _question_text(template: Template, item: Item, lettered: bool) -> str:
    """An item's context, question and options up to where its answer begins."""
    context = item.context + template.context_end if item.context is not None else ""
    listed = zip(LETTERS, item.choices, strict=False) if lettered else ()
    options = "".join(f"\n{letter}. {choice}" for letter, choice in listed)
    return context + template.question_prefix + item.question + options + template.answer_cue


def _answer(example: Item, lettered: bool) -> str:
    if lettered:
        return LETTERS[example.choices.index(example.answer)]
    return example.worked or example.answer
