"""Tasks: a named set of items with what all of them share, as frozen values."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

from layerwise.errors import UserError, count_noun
from layerwise.ground.argument_types import Limit
from layerwise.ground.arguments import Argument
from layerwise.tasks.extractors import NAMED, Words, plain, split_words
from layerwise.tasks.items import Capability, Item


@dataclass(frozen=True)
class GenerateSpec:
    """Settings by which free text is generated and an answer is taken from it.

    Attributes:
        stop: strings at which generation ends; they are not part of the text.
        max_tokens: at most so many new tokens.
        extractor: name of the extractor (see ``extractors``).
    """

    stop: tuple[str, ...]
    max_tokens: int
    extractor: str


def one_line_answers(items: Sequence[Item]) -> GenerateSpec:
    """Answers of one line, with room for the longest, before a tokenizer is known."""
    # A token is seldom under two bytes of text, digits apart.
    longest = max(len(item.answer.encode()) for item in items)
    return GenerateSpec(("\n",), 8 + longest // 2, "first_line")


@dataclass(frozen=True)
class Template:
    """Text around context, question and answer in a prompt.

    Attributes:
        question_prefix: before the question.
        answer_cue: after the question, where an answer is to follow without listed options.
        delimiter: between the cue and the answer; part of the continuation that is scored.
        answer_end: closes the answer of a few-shot example.
        separator: between examples.
        context_end: between an item's context and its question.
    """

    question_prefix: str = ""
    answer_cue: str = ""
    delimiter: str = " "
    answer_end: str = ""
    separator: str = "\n\n"
    context_end: str = "\n"


@dataclass(frozen=True)
class Task:
    """A named set of items of one capability, with template, examples and chance levels.

    Attributes:
        name: e.g. ``"kv-words"``; a user's file goes by its name without its suffix.
        capability: what the items ask for.
        description: one line.
        items: what is asked, in a fixed order.
        fewshot: worked examples from a disjoint split, in a fixed order.
        generate: how the ``generate`` protocol runs.
        chance: accuracy by guessing, 0 to 1, for each protocol that the items allow.
        template: what stands around questions and answers.
        source: ``"built-in"`` or the file.
        unasked: further items of the same task, which are not asked. They tell what its options
            give away (see ``tasks.blind``); requests, and so the hash, know nothing of them.
        other_fewshot: further draws of as many worked examples from the same split; no part of the
            task's hash, for a run that asks with them says so.
        system: what chat models are told first (the system prompt); empty for none.
        judge: says whether a written text is right and which answer it gives, in place of the
            extractor; None for tasks that are judged by it.
        answer_tokens: room for answers that take more of a model's tokens than ``generate`` allows;
            no part of the task's hash, for the same questions are asked of every model.
    """

    name: str
    capability: Capability
    description: str
    items: tuple[Item, ...]
    fewshot: tuple[Item, ...]
    generate: GenerateSpec
    chance: Mapping[str, float]
    template: Template = Template()
    source: str = "built-in"
    unasked: tuple[Item, ...] = ()
    other_fewshot: tuple[tuple[Item, ...], ...] = ()
    answer_tokens: int = 0
    system: str = ""
    judge: Callable[[Item, str], tuple[bool, str | None]] | None = field(
        default=None, compare=False, repr=False
    )

    @property
    def n_fewshot(self) -> int:
        """Few-shot examples in each prompt, also of items that bring their own."""
        turns = self.items[0].turns[:-1] if self.items else ()
        return len(self.fewshot) or sum(role == "assistant" for role, _ in turns)

    @property
    def max_tokens(self) -> int:
        """At most so many new tokens under ``generate``."""
        return max(self.generate.max_tokens, self.answer_tokens)

    @cached_property
    def answers(self) -> Mapping[str | None, Mapping[Words, str]]:
        """By group of items, their answers and options by their words, normalised."""
        right: dict[str | None, dict[Words, str]] = {}
        for item in (*self.items, *self.unasked):
            for answer in (item.answer, *item.aliases, *item.choices):
                words = split_words(plain(answer))
                right.setdefault(item.group, {}).setdefault(words, plain(answer))
        return right

    @cached_property
    def hash(self) -> str:
        """SHA-256 (hex) over canonical JSON of everything that shapes a request."""
        shaping = {
            "name": self.name,
            "items": [_set_fields(item) for item in self.items],
            "fewshot": [_set_fields(item) for item in self.fewshot],
            "generate": asdict(self.generate),
            "template": asdict(self.template),
            **({"system": self.system} if self.system else {}),
        }
        text = json.dumps(shaping, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def result_properties(self) -> dict[str, Any]:
        """Task properties that results depend on beside the requests, as plain JSON values."""
        return {
            "capability": self.capability,
            "description": self.description,
            "chance": dict(self.chance),
            "items not asked": counted_hash(self.unasked),
        }

    def describe(self) -> str:
        """One line: name, capability, number of items and few-shot examples, description."""
        size = f"{len(self.items)} items, {self.n_fewshot} few-shot"
        return f"{self.name} ({self.capability}; {size}): {self.description}"


def counted_hash(items: Sequence[Item]) -> str:
    """Number of these items, and a SHA-256 over them."""
    text = json.dumps([_set_fields(item) for item in items], sort_keys=True)
    return f"{len(items)} items, {hashlib.sha256(text.encode()).hexdigest()}"


def _set_fields(item: Item) -> dict[str, Any]:
    """An item's fields; of those that few items have, the ones that are set."""
    fields, rare = asdict(item), ("cluster", "ending", "turns")
    return {key: value for key, value in fields.items() if value or key not in rare}


def take(task: Task, limit: int | None = None, fewshot: int | None = None) -> Task:
    """The same task with its first ``limit`` items and first ``fewshot`` examples."""
    if limit is not None:
        Argument("limit", Limit).read(limit)
    have = len(task.fewshot)
    if fewshot is not None and not 0 <= fewshot <= have:
        raise UserError(
            f"Task {task.name!r} has {count_noun(have, 'few-shot example')}, so {fewshot} cannot "
            f"be taken; ask for a number from 0 to {have}."
        )
    others = tuple(examples[:fewshot] for examples in task.other_fewshot)
    return replace(
        task,
        items=task.items[:limit],
        fewshot=task.fewshot[:fewshot],
        unasked=(*task.items[len(task.items[:limit]) :], *task.unasked),
        other_fewshot=others,
    )


# Draws of the few-shot examples that a run is asked with, and that a suite has.
MOST_FEWSHOT_SEEDS = 10


def refuse_fewshot_seeds(fewshot_seeds: int) -> None:
    """Refuse a number of draws of few-shot examples that suites do not have."""
    if not 1 <= fewshot_seeds <= MOST_FEWSHOT_SEEDS:
        raise UserError(
            f"{fewshot_seeds} draws of the few-shot examples were asked for; expected 1 to "
            f"{MOST_FEWSHOT_SEEDS}."
        )


def with_examples(task: Task, number: int) -> Task:
    """The same task with another draw of its few-shot examples."""
    draws = (task.fewshot, *task.other_fewshot) if task.fewshot else ()
    if number >= max(1, len(draws)):
        raise UserError(
            f"Task {task.name!r} has {count_noun(len(draws), 'draw')} of few-shot "
            f"examples, and more "
            "were asked for: expected at most so many; ask it in a run of its own, or give a Task "
            "with more of them (other_fewshot)."
        )
    return replace(task, fewshot=draws[number]) if number else task


def for_chat(task: Task) -> Task:
    """The task with answers that may stand in sentences of several lines, as chat models write."""
    # Those whose extractor reads such texts already, and those with a judge of their own, stay.
    spec = task.generate
    in_sentences = {"first_line": NAMED, "first_word": NAMED, "integer": "final_number"}
    if task.judge is not None or spec.extractor not in in_sentences:
        return task
    # 32 tokens of a sentence around the answer.
    generate = GenerateSpec((), spec.max_tokens + 32, in_sentences[spec.extractor])
    return replace(task, generate=generate)
