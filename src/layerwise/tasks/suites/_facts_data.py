"""The project's facts: a relation's sentence with subjects and answers, and draws from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from layerwise.tasks.suites._building import data, draw


@dataclass(frozen=True)
class Fact:
    """One fact."""

    relation: str  # e.g. ``"capital"``
    cloze: str  # the relation's sentence up to where the answer stands, with ``{subject}``
    subject: str  # what it is about
    answer: str
    aliases: tuple[str, ...] = ()  # other right answers

    @property
    def name(self) -> str:
        """What items that ask for it have as their cluster."""
        return f"{self.relation}: {self.subject}"

    @property
    def question(self) -> str:
        """The sentence up to where the answer stands."""
        return self.cloze.format(subject=self.subject)

    def sentence(self, answer: str | None = None) -> str:
        """The whole sentence, with another answer if one is given."""
        return f"{self.question} {answer or self.answer}."


_BY_RARITY = ("facts", "facts_rarer")
MOST_RARITY = len(_BY_RARITY)


def all_facts(rarity: int = 1) -> tuple[Fact, ...]:
    """Every fact, in the order of the data."""
    return tuple(
        Fact(
            relation["name"],
            relation["cloze"],
            fact["subject"],
            fact["answer"],
            tuple(fact.get("aliases", ())),
        )
        for relation in data(_BY_RARITY[rarity - 1])["relations"]
        for fact in relation["facts"]
    )


def fewshot_pool(
    rng: np.random.Generator, facts: Sequence[Fact], relations: Sequence[str], each: int
) -> list[list[Fact]]:
    """For each relation, some facts of which neither subject nor answer comes up elsewhere."""
    # They are left to the few-shot examples, which then give away no item.
    texts = Counter(text.casefold() for fact in facts for text in {fact.subject, fact.answer})
    lonely = [fact for fact in facts if texts[fact.subject.casefold()] == 1]
    lonely = [fact for fact in lonely if texts[fact.answer.casefold()] == 1]
    return [
        draw(rng, [fact for fact in lonely if fact.relation == relation], each)
        for relation in relations
    ]


def option_groups(rng: np.random.Generator, facts: Sequence[Fact], size: int) -> list[list[Fact]]:
    """Facts of one relation in groups of different answers, in random order."""
    # Asked with the group's answers as options, each of them is right once. Answers that many facts
    # share come first, so that few facts are left over; then facts whose subjects have as many
    # words. Facts for which no group is left are not asked.
    left: dict[str, list[Fact]] = {}
    for fact in draw(rng, facts, len(facts)):
        left.setdefault(fact.answer, []).append(fact)
    groups = []
    while len(left) >= size:
        first = max(left.values(), key=len)[-1]
        group = [first]
        ranked = sorted(left, key=lambda answer: _rank(left[answer], first))
        for answer in ranked:
            if len(group) < size and not any(_clash(left[answer][-1], fact) for fact in group):
                group.append(left[answer][-1])
        if len(group) < size:
            del left[first.answer]
            continue
        groups.append(group)
        for fact in group:
            left[fact.answer].pop()
            if not left[fact.answer]:
                del left[fact.answer]
    return draw(rng, groups, len(groups))


def different(rng: np.random.Generator, facts: Sequence[Fact], count: int) -> list[Fact]:
    """Random facts with different answers, in random order."""
    chosen: list[Fact] = []
    for fact in draw(rng, facts, len(facts)):
        if len(chosen) < count and not any(_clash(fact, other) for other in chosen):
            chosen.append(fact)
    # Common answers are drawn early; the order must not tell them.
    return draw(rng, chosen, len(chosen))


def closest(fact: Fact, facts: Sequence[Fact]) -> Fact:
    """Of other facts the one whose subject is most like it in words and length."""
    return min(
        (other for other in facts if other != fact),
        key=lambda other: (
            _words(other) != _words(fact),
            abs(len(other.subject) - len(fact.subject)),
        ),
    )


def _rank(facts: Sequence[Fact], first: Fact) -> tuple[int, bool]:
    return -len(facts), _words(facts[-1]) != _words(first)


def _words(fact: Fact) -> int:
    return len(fact.subject.split())


def _clash(fact: Fact, other: Fact) -> bool:
    """Whether an answer to one fact is an answer to the other, too."""
    own, others = {fact.answer, *fact.aliases}, {other.answer, *other.aliases}
    return bool(own & others)
