"""What a student is trained on: prompts with answers that are not measured, or a file's texts.

Which answers the teacher gives is asked in ``course``; no model is run here.
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


class Lesson(NamedTuple):
    """A text that a student is trained on.

    Attributes:
        tokens: token ids.
        n_read: how many stand before what is trained on; an encoder reads these.
        n_given: how many are given when the student writes the rest itself.
        most: at most so many tokens are written then.
        stop: strings that end what is written.
    """

    tokens: Tokens
    n_read: int
    n_given: int
    most: int
    stop: tuple[str, ...] = ()

    @property
    def read(self) -> Tokens:
        """What stands before what is trained on."""
        return self.tokens[: self.n_read]

    @property
    def said(self) -> Tokens:
        """What is trained on."""
        return self.tokens[self.n_read :]


class Question(NamedTuple):
    """An item that is not measured, as a protocol asks it.

    Attributes:
        task: the task.
        item: the item.
        protocol: the protocol.
        requests: what is put to a model.
    """

    task: Task
    item: Item
    protocol: str
    requests: tuple[TaskRequest, ...]


@dataclass(frozen=True)
class Lessons:
    """Texts to train on and texts to test on; no text is in both.

    Attributes:
        train: to train on.
        held_out: to test on.
        source: where they come from.
    """

    train: tuple[Lesson, ...]
    held_out: tuple[Lesson, ...]
    source: str

    @property
    def hash(self) -> str:
        """SHA-256 (hex) over all of them."""
        return hashlib.sha256(json.dumps([self.train, self.held_out]).encode()).hexdigest()


def lessons_of_file(path: Path, setup: Setup, n_texts: int) -> Lessons:
    """The texts of a file, in pieces; all of a piece is trained on but what it begins with.

    A student that writes itself is given the first half; an encoder reads it.
    """
    length = min(LENGTH, setup.model.cfg.n_ctx)
    groups: list[list[Lesson]] = []
    for text in read_texts(path):
        if is_seq2seq(setup.model):
            found = halves(text, setup.tokenizer, length, setup.model)
            groups.append([_lesson(one.tokens, one.n_prompt, one.n_prompt) for one in found])
        else:
            cut = [one.tokens for one in pieces(text, setup.tokenizer, length)]
            groups.append([_lesson(one, 1, (len(one) + 1) // 2) for one in cut if len(one) > 1])
    return _parted(groups, n_texts, setup, str(path))


def _lesson(tokens: Tokens, n_read: int, n_given: int) -> Lesson:
    return Lesson(tokens, n_read, n_given, len(tokens) - n_given)


def lessons_of_questions(
    groups: Sequence[Sequence[Question]],
    answer: Callable[[Question], Lesson | None],
    setup: Setup,
    n_texts: int,
    n_ctx: int,
) -> Lessons:
    """Questions with their answers."""
    apart = is_seq2seq(setup.model)
    made = [[answer(question) for question in group] for group in groups]
    fitting = [[one for one in group if one and _length(one, apart) <= n_ctx] for group in made]
    names = ", ".join(dict.fromkeys(question.task.name for group in groups for question in group))
    return _parted(fitting, n_texts, setup, f"prompts of {names or 'the tasks'}")


def _length(lesson: Lesson, apart: bool) -> int:
    """The longest that a model reads of a text, if the student writes it, too."""
    said = max(len(lesson.said), lesson.most) + 1
    return max(lesson.n_read, said) if apart else max(lesson.n_read, lesson.n_given) + said


def _parted(groups: Sequence[Sequence[Lesson]], n_texts: int, setup: Setup, source: str) -> Lessons:
    rng = stats.generator(setup.seed, "texts of the distillation")
    return Lessons(*parted(groups, n_texts, rng, source, "a student"), source)


def questions_of_tasks(setup: Setup, n_texts: int) -> list[list[Question]]:
    """Questions of the tasks that share neither question nor fact with a measured item.

    Of a built-in suite other seeds are asked, of other tasks the items that a limit leaves over.
    """
    measured, groups = _Measured.of(setup.tasks), list[list[Question]]()
    suites = {task.name: task for task in setup.tasks if is_from_suite(task)}
    for task in setup.tasks:
        if task.name not in suites:
            fresh = [item for item in task.unasked if measured.leaves(item)]
            cut = [fresh[i : i + TOGETHER] for i in range(0, len(fresh), TOGETHER)]
            groups += [list(_asked(setup, task, items)) for items in cut]
    for seed in range(setup.seed + 1, setup.seed + 1 + MOST_SEEDS):
        if not suites or sum(map(len, groups)) >= n_texts:
            break
        groups.append(
            [one for task in suites.values() for one in _other(setup, task, seed, measured)]
        )
    if not any(groups):
        raise UserError(
            "There are no questions to train a student on: none of the tasks has items beside "
            "those that are measured; give a limit that leaves some over, a built-in task, or a "
            ".txt or .jsonl file with text."
        )
    return groups


class _Measured(NamedTuple):
    """What no text to train on may ask."""

    questions: frozenset[tuple[str | None, str]]
    facts: frozenset[str]

    @classmethod
    def of(cls, tasks: Sequence[Task]) -> _Measured:
        items = [item for task in tasks for item in task.items]
        return cls(
            frozenset((item.context, item.question) for item in items),
            frozenset(item.cluster for item in items if item.cluster is not None),
        )

    def leaves(self, item: Item) -> bool:
        """Whether an item asks for something else."""
        return (item.context, item.question) not in self.questions and item.cluster not in (
            self.facts
        )


def _other(setup: Setup, task: Task, seed: int, measured: _Measured) -> Iterator[Question]:
    other = load_task(task.name, seed=seed, fewshot=len(task.fewshot))
    fresh = [item for item in other.items if measured.leaves(item)]
    yield from _asked(setup, other, fresh[:TOGETHER])


def _asked(setup: Setup, task: Task, items: Sequence[Item]) -> Iterator[Question]:
    for item in items:
        for protocol in setup.protocols:
            yield Question(task, item, protocol, setup.requests(task, item, protocol))


def task_answer(setup: Setup, question: Question) -> Lesson | None:
    """A question with the task's own answer, worked out where the task has it so.

    Under ``generate`` it ends as few-shot examples do, or with the end token if nothing there
    would stop a text.
    """
    task, protocol = question.task, question.protocol
    gold = next(one for one in question.requests if one.gold)
    if protocol != "generate":
        return answered(setup, question, gold.context, gold.continuation or "", end=False)
    answer = question.item.worked or question.item.answer
    closing = task.template.answer_end + task.template.separator
    stops = any(stop in closing for stop in task.generate.stop)
    said = ("" if setup.chat else task.template.delimiter) + answer + (closing if stops else "")
    return answered(setup, question, gold.context, said, end=not stops)


def answered(
    setup: Setup, question: Question, context: str, said: str, *, end: bool
) -> Lesson | None:
    """A prompt and an answer as a text; None if the answer has no token of its own."""
    encoded = encode_apart if is_seq2seq(setup.model) else encode_pair
    read, rest = encoded(setup.tokenizer, context, said)
    return lesson_of(setup, question, read, rest, end=end) if rest else None


def lesson_of(setup: Setup, question: Question, read: Tokens, said: Tokens, *, end: bool) -> Lesson:
    """A prompt and an answer, both as tokens."""
    last = setup.tokenizer.eos_token_id
    rest = (*said, last) if end and last is not None else said
    wrote = question.protocol == "generate"
    task = question.task
    most, stop = (task.max_tokens, task.generate.stop) if wrote else (len(rest), ())
    return Lesson((*read, *rest), len(read), len(read), most, stop)
