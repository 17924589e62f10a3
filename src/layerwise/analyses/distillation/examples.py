"""Training examples: prompts of unmeasured items with answers, or a file's texts.

The teacher's answers come from ``pipeline``; no model is run here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from layerwise import stats
from layerwise.analyses.shared.texts import (
    LENGTH,
    MOST_SEEDS,
    halves,
    parted,
    pieces,
    read_texts,
)
from layerwise.errors import UserError
from layerwise.models.instance.kinds import is_seq2seq
from layerwise.runs.setup import Setup
from layerwise.sweep.requests import Tokens
from layerwise.tasks import Task, TaskRequest, load_task
from layerwise.tasks._encoding import encode_apart, encode_pair
from layerwise.tasks.items import Item
from layerwise.tasks.registry import is_from_suite

# Items that share their few-shot examples.
TOGETHER = 12


class Example(NamedTuple):
    """A tokenised training text with its targets.

    Attributes:
        tokens: token ids.
        n_prompt: how many stand before the targets; an encoder reads these.
        n_given: how many are given when the student writes the rest itself.
        most: at most so many tokens are written then.
        stop: strings that end what is written.
    """

    tokens: Tokens
    n_prompt: int
    n_given: int
    most: int
    stop: tuple[str, ...] = ()

    @property
    def prompt(self) -> Tokens:
        """Tokens before the targets."""
        return self.tokens[: self.n_prompt]

    @property
    def given(self) -> Tokens:
        """Tokens that are given when the student writes the rest itself."""
        return self.tokens[: self.n_given]

    @property
    def targets(self) -> Tokens:
        """Tokens whose prediction is trained."""
        return self.tokens[self.n_prompt :]


class Question(NamedTuple):
    """An item that is not measured, under one protocol.

    Attributes:
        task: the task.
        item: the item.
        protocol: the protocol.
        requests: its requests to a model.
    """

    task: Task
    item: Item
    protocol: str
    requests: tuple[TaskRequest, ...]


@dataclass(frozen=True)
class Examples:
    """Training examples and held-out ones; no text is in both.

    Attributes:
        train: to train on.
        held_out: to test on.
        source: name of the file or the tasks.
    """

    train: tuple[Example, ...]
    held_out: tuple[Example, ...]
    source: str

    @property
    def hash(self) -> str:
        """SHA-256 (hex) over all of them."""
        return hashlib.sha256(json.dumps([self.train, self.held_out]).encode()).hexdigest()


def examples_of_file(path: Path, setup: Setup, n_texts: int) -> Examples:
    """A file's texts in pieces; all but the beginning of a piece is trained on.

    A student that writes itself is given the first half; an encoder reads it.
    """
    length = min(LENGTH, setup.model.cfg.n_ctx)
    groups: list[list[Example]] = []
    for text in read_texts(path):
        if is_seq2seq(setup.model):
            cut = halves(text, setup.tokenizer, length, setup.model)
            groups.append([_example(piece.tokens, piece.n_prompt, piece.n_prompt) for piece in cut])
        else:
            tokens = [piece.tokens for piece in pieces(text, setup.tokenizer, length)]
            groups.append([_example(of, 1, (len(of) + 1) // 2) for of in tokens if len(of) > 1])
    return _parted(groups, n_texts, setup, str(path))


def _example(tokens: Tokens, n_prompt: int, n_given: int) -> Example:
    return Example(tokens, n_prompt, n_given, len(tokens) - n_given)


def examples_of_questions(
    groups: Sequence[Sequence[Question]],
    answer: Callable[[Question], Example | None],
    setup: Setup,
    n_texts: int,
    n_ctx: int,
) -> Examples:
    """Examples of questions with their answers."""
    has_encoder = is_seq2seq(setup.model)
    answered = [[answer(question) for question in group] for group in groups]
    fitting = [
        [example for example in group if example and _length(example, has_encoder) <= n_ctx]
        for group in answered
    ]
    names = ", ".join(dict.fromkeys(question.task.name for group in groups for question in group))
    return _parted(fitting, n_texts, setup, f"prompts of {names or 'the tasks'}")


def _length(example: Example, has_encoder: bool) -> int:
    """Longest input of an example, also if the student writes the targets itself."""
    n_answer = max(len(example.targets), example.most) + 1
    return (
        max(example.n_prompt, n_answer)
        if has_encoder
        else max(example.n_prompt, example.n_given) + n_answer
    )


def _parted(
    groups: Sequence[Sequence[Example]], n_texts: int, setup: Setup, source: str
) -> Examples:
    rng = stats.generator(setup.seed, "texts of the distillation")
    return Examples(*parted(groups, n_texts, rng, source, "a student"), source)


def questions_of_tasks(setup: Setup, n_texts: int) -> list[list[Question]]:
    """Questions of the tasks that share neither question nor fact with a measured item.

    A built-in suite gives them by other seeds, another task by the items that a limit leaves over.
    """
    measured, groups = _Measured.of(setup.tasks), list[list[Question]]()
    suites = {task.name: task for task in setup.tasks if is_from_suite(task)}
    for task in setup.tasks:
        if task.name not in suites:
            fresh = [item for item in task.unasked if measured.allows(item)]
            cut = [fresh[i : i + TOGETHER] for i in range(0, len(fresh), TOGETHER)]
            groups += [list(_questions(setup, task, items)) for items in cut]
    for seed in range(setup.seed + 1, setup.seed + 1 + MOST_SEEDS):
        if not suites or sum(map(len, groups)) >= n_texts:
            break
        groups.append(
            [
                question
                for task in suites.values()
                for question in _fresh_questions(setup, task, seed, measured)
            ]
        )
    if not any(groups):
        raise UserError(
            "There are no questions to train a student on: none of the tasks has items beside "
            "those that are measured; give a limit that leaves some over, a built-in task, or a "
            ".txt or .jsonl file with text."
        )
    return groups


class _Measured(NamedTuple):
    """Questions and facts that no training example may have."""

    questions: frozenset[tuple[str | None, str]]
    facts: frozenset[str]

    @classmethod
    def of(cls, tasks: Sequence[Task]) -> _Measured:
        items = [item for task in tasks for item in task.items]
        return cls(
            frozenset((item.context, item.question) for item in items),
            frozenset(item.cluster for item in items if item.cluster is not None),
        )

    def allows(self, item: Item) -> bool:
        """True if an item has another question and another fact."""
        return (item.context, item.question) not in self.questions and item.cluster not in (
            self.facts
        )


def _fresh_questions(
    setup: Setup, task: Task, seed: int, measured: _Measured
) -> Iterator[Question]:
    other = load_task(task.name, seed=seed, fewshot=len(task.fewshot))
    fresh = [item for item in other.items if measured.allows(item)]
    yield from _questions(setup, other, fresh[:TOGETHER])


def _questions(setup: Setup, task: Task, items: Sequence[Item]) -> Iterator[Question]:
    for item in items:
        for protocol in setup.protocols:
            yield Question(task, item, protocol, setup.requests(task, item, protocol))


def task_answer(setup: Setup, question: Question) -> Example | None:
    """A question with the task's own answer, worked out where the task has it so.

    Under ``generate`` it ends as few-shot examples do, or with the end token if nothing there
    would stop a text.
    """
    task, protocol = question.task, question.protocol
    gold = next(request for request in question.requests if request.gold)
    if protocol != "generate":
        return encoded_example(setup, question, gold.context, gold.continuation or "", end=False)
    answer = question.item.worked or question.item.answer
    closing = task.template.answer_end + task.template.separator
    stops = any(stop in closing for stop in task.generate.stop)
    written = ("" if setup.chat else task.template.delimiter) + answer + (closing if stops else "")
    return encoded_example(setup, question, gold.context, written, end=not stops)


def encoded_example(
    setup: Setup, question: Question, context: str, answer: str, *, end: bool
) -> Example | None:
    """A prompt and an answer as an example; None if the answer has no token of its own."""
    encode = encode_apart if is_seq2seq(setup.model) else encode_pair
    prompt, targets = encode(setup.tokenizer, context, answer)
    return example_of(setup, question, prompt, targets, end=end) if targets else None


def example_of(
    setup: Setup, question: Question, prompt: Tokens, answer: Tokens, *, end: bool
) -> Example:
    """An example of a prompt and an answer, both as tokens."""
    last = setup.tokenizer.eos_token_id
    targets = (*answer, last) if end and last is not None else answer
    is_free_text = question.protocol == "generate"
    task = question.task
    most, stop = (task.max_tokens, task.generate.stop) if is_free_text else (len(targets), ())
    return Example((*prompt, *targets), len(prompt), len(prompt), most, stop)
