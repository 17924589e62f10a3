"""Items: one question each with its gold answer, independent of how it is put to a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

Capability = Literal["retrieval", "knowledge", "reasoning", "coherence"]
CAPABILITIES: tuple[str, ...] = get_args(Capability)


@dataclass(frozen=True)
class Corruption:
    """The same question with one thing changed, so that another answer is right.

    Activation patching runs between the two prompts. Both are chosen so that the prompts
    have the same number of tokens wherever the tokenizer allows it; patching refuses pairs
    that differ in length.

    Attributes:
        question: the changed question.
        answer: its right answer, different from the item's.
        context: the changed passage, or None if the item has none.
    """

    question: str
    answer: str
    context: str | None = None


@dataclass(frozen=True)
class Item:
    """One question with its answer, its options and its context.

    Attributes:
        id: unique within its suite and stable over runs, e.g. ``"kv-words-5/0012"``.
        question: what is asked; a text to be continued in cloze suites.
        answer: the gold answer.
        choices: all options in a fixed order, the answer among them; empty if there are none.
        context: a passage that stands before the question, if any.
        worked: a worked-out answer that ends in the answer (few-shot examples of reasoning).
        aliases: other spellings that count as right under ``generate``.
        pair: the id of the item of another task that asks the same with or without the passage; of
            an item that has a ``context`` it names its closed book (``closed_book``).
        corruption: what activation patching patches from.
        group: a label within the suite, e.g. the relation or the number of pairs.
        cluster: the fact that is asked for, e.g. ``"capital: France"``. Items of one cluster, in
            one task or in several, ask for the same thing and do not count as independent; None
            for an item that stands by itself.
        ending: a text that follows the options and is scored in their place, as in WinoGrande:
            each option ends a prompt of its own. None where options themselves are scored.
        turns: the question as turns of a chat, each a role and a content, with its examples;
            empty if they are made of the task's fields.
    """

    id: str
    question: str
    answer: str
    choices: tuple[str, ...] = ()
    context: str | None = None
    worked: str | None = None
    aliases: tuple[str, ...] = ()
    pair: str | None = None
    corruption: Corruption | None = None
    group: str | None = None
    cluster: str | None = None
    ending: str | None = None
    turns: tuple[tuple[str, str], ...] = ()


def closed_book(item: Item) -> str | None:
    """The id of the item that asks the same without the passage; None if there is none."""
    return None if item.context is None else item.pair


def bad_choices(item: Item) -> str | None:
    """Sentence on what is wrong with an item's choices, and what to do; None if nothing is."""
    if len(set(item.choices)) < len(item.choices):
        return "has equal choices; expected different ones; remove one of them."
    if item.choices and item.answer not in item.choices:
        return "has an answer that is not among its choices; add it to them."
    return None


def cluster_repeats(items: Sequence[Item]) -> tuple[Item, ...]:
    """Items of which those with the same passage, question, answer, ending are in one cluster."""
    # It is the first that one of them names, or is called after the first of them. Items that name
    # another cluster themselves stay in it.
    alike: dict[tuple[str | None, ...], list[Item]] = {}
    for item in items:
        key = (item.context, item.question, item.answer, item.ending)
        alike.setdefault(key, []).append(item)
    joined = {}
    for same in alike.values():
        if len(same) > 1:
            named = next((item.cluster for item in same if item.cluster), f"as {same[0].id}")
            joined |= {item.id: named for item in same if item.cluster is None}
    return tuple(
        replace(item, cluster=joined[item.id]) if item.id in joined else item for item in items
    )


def commonest_answer(items: Sequence[Item]) -> float:
    """Accuracy of always giving the commonest answer of an item's group."""
    # The best that a guesser can do who sees what kind of question it is and knows how often each
    # answer is right, but not what is asked.
    groups: dict[str | None, Counter[str]] = {}
    for item in items:
        groups.setdefault(item.group, Counter())[item.answer.casefold()] += 1
    return sum(max(counts.values()) for counts in groups.values()) / len(items)


def guessing_chance(items: Sequence[Item], written: float | None = None) -> dict[str, float]:
    """Guessing among the choices; of answers that are written, the commonest one if None."""
    chance = {"generate": commonest_answer(items) if written is None else written}
    if all(item.choices for item in items):
        share = sum(1 / len(item.choices) for item in items) / len(items)
        chance |= {"letter": share, "continuation": share}
    return chance
