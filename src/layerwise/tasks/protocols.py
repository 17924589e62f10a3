"""The three protocols: how an item becomes requests, and their outcomes a score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from layerwise.errors import UserError
from layerwise.sweep.requests import Generate, LogLikelihood
from layerwise.tasks._encoding import Tokenizer, as_chat, encode, encode_pair
from layerwise.tasks._requests import (
    TaskRequest,
    check_item,
    check_length,
    continuations,
    has_begun_answer,
    prompt,
    turns,
    with_option,
)
from layerwise.tasks.items import Item
from layerwise.tasks.task import Task

# Beside an answer: a token of white space before it, and one that ends its line.
_BESIDE = 2


def build_requests(
    task: Task,
    item: Item,
    protocol: str,
    tokenizer: Tokenizer,
    *,
    chat: bool = False,
    max_length: int | None = None,
    apart: bool = False,
) -> tuple[TaskRequest, ...]:
    """Requests that put one item to the model: one per option, or one to generate.

    Args:
        task: where the item is from; gives few-shot examples and template.
        item: the item.
        protocol: one of ``PROTOCOLS``.
        tokenizer: the original Hugging Face tokenizer.
        chat: put examples and question as turns of the tokenizer's chat template.
        max_length: the most tokens that the model takes, answer included.
        apart: of an encoder-decoder, prompt and answer are encoded apart, and each of them may
            have ``max_length`` tokens.

    Raises:
        UserError: an unknown protocol, options missing or equal, no chat template, or a
            prompt that is empty or longer than ``max_length``.
    """
    check_item(task, item, protocol)
    apiece = item.choices if item.ending is not None else ()
    prompted = [with_option(item, choice) for choice in apiece] or [item]
    if chat:
        contexts = [as_chat(tokenizer, turns(task, one, protocol)) for one in prompted]
    else:
        contexts = [prompt(task, one, protocol) for one in prompted]
    if protocol == "generate":
        (context,) = contexts
        tokens = encode(tokenizer, context, apart=apart)
        if not tokens:
            raise _no_tokens(task, item)
        request = Generate(tokens, task.max_tokens, task.generate.stop)
        known = (item.id, task.name, protocol, context, None, True, request, item.answer)
        built = (TaskRequest(*known),)
    else:
        # A chat template ends where the answer begins, so nothing stands between them, unless the
        # answer is begun in the prompt; as in lm-evaluation-harness.
        nothing = chat and not has_begun_answer(item, protocol)
        built = _options(task, item, protocol, contexts, nothing, tokenizer, apart)
    for request in built:
        check_length(request, max_length, apart=apart)
    return built


def with_room(task: Task, tokenizer: Tokenizer, *, apart: bool = False) -> Task:
    """The task with room for its longest answer, where ``generate`` allows fewer tokens.

    Args:
        task: the task; itself if every item has an accepted answer that fits.
        tokenizer: the original Hugging Face tokenizer.
        apart: as for ``build_requests``.
    """
    if task.judge is not None:
        return task
    accepted = [(item.answer, *item.aliases) for item in task.items]
    texts = sorted({task.template.delimiter + one for each in accepted for one in each})
    encode_all: Any = tokenizer
    encoded = encode_all(**{"text_target" if apart else "text": texts}, add_special_tokens=False)
    lengths = dict(zip(texts, map(len, encoded["input_ids"]), strict=True))
    longest = max(min(lengths[task.template.delimiter + one] for one in each) for each in accepted)
    fits = longest <= task.generate.max_tokens
    return task if fits else replace(task, answer_tokens=longest + _BESIDE)


def _options(
    task: Task,
    item: Item,
    protocol: str,
    contexts: Sequence[str],
    joined: bool,
    tokenizer: Tokenizer,
    apart: bool,
) -> tuple[TaskRequest, ...]:
    texts = continuations(task, item, protocol, "" if joined else None)
    built, starts = [], {}
    for number, (text, choice) in enumerate(zip(texts, item.choices, strict=True)):
        context = contexts[number % len(contexts)]
        start, rest = encode_pair(tokenizer, context, text, starts.get(context), apart=apart)
        if not start or not rest:
            raise _no_tokens(task, item)
        starts[context] = start
        option = None if item.ending is None else choice
        gold, request = choice == item.answer, LogLikelihood(start, rest)
        built.append(
            TaskRequest(item.id, task.name, protocol, context, text, gold, request, option=option)
        )
    return tuple(built)


def _no_tokens(task: Task, item: Item) -> UserError:
    return UserError(
        f"Item {item.id!r} of task {task.name!r} has a prompt or an option without a token of its "
        "own under this model's tokenizer; expected at least one each; change the item's text."
    )
