"""The project's facts: a relation's sentence with subjects and answers, and draws from them.

The questions made from them are in ``facts`` and ``open_book``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from layerwise.tasks.suites._building import data, draw


@dataclass(frozen=True)
class Fact:
    """One fact.

    Attributes:
        relation: e.g. ``"capital"``.
        cloze: the relation's sentence up to where the answer stands, with ``{subject}``.
        subject: what it is about.
        answer: the answer.
        aliases: other right answers.
    """

    relation: str
    cloze: str
    subject: str
    answer: str
    aliases: tuple[str, ...] = ()

    @property
    def question(self) -> str:
        """The sentence up to where the answer stands."""
        return self.cloze.format(subject=self.subject)

    def sentence(self, answer: str | None = None) -> str:
        """The whole sentence, with another answer if one is given."""
        return f"{self.question} {answer or self.answer}."


def all_facts() -> tuple[Fact, ...]:
    """Every fact, in the order of the data."""
    return tuple(
        Fact(
            relation["name"],
            relation["cloze"],
            fact["subject"],
            fact["answer"],
            tuple(fact.get("aliases", ())),
        )
        for relation in data("facts")["relations"]
        for fact in relation["facts"]
    )


def fewshot_pool(
    rng: np.random.Generator, facts: Sequence[Fact], relations: Sequence[str], each: int
) -> list[list[Fact]]:
    """For each relation, some facts of which neither subject nor answer comes up elsewhere.

    They are left to the few-shot examples, which then give away no item.
    """
    texts = Counter(text.casefold() for fact in facts for text in {fact.subject, fact.answer})
    lonely = [fact for fact in facts if texts[fact.subject.casefold()] == 1]
    lonely = [fact for fact in lonely if texts[fact.answer.casefold()] == 1]
    return [
        draw(rng, [fact for fact in lonely if fact.relation == relation], each)
        for relation in relations
    ]


def others(rng: np.random.Generator, fact: Fact, facts: Sequence[Fact], count: int) -> list[Fact]:
    """Facts of the same relation with different answers, all wrong for ``fact``.

    Subjects with as many words as ``fact`` has come first where there are enough of them,
    and the one closest in length is put first: it makes the corruption.
    """
    wrong = [one for one in facts if one.relation == fact.relation]
    wrong = [one for one in wrong if one.answer not in (fact.answer, *fact.aliases)]
    wrong = [one for one in wrong if fact.answer not in one.aliases and one != fact]
    mixed = draw(rng, wrong, len(wrong))
    mixed.sort(key=lambda one: len(one.subject.split()) != len(fact.subject.split()))
    chosen = list({one.answer: one for one in reversed(mixed)}.values())
    chosen.sort(key=mixed.index)
    chosen = chosen[:count]
    chosen.sort(key=lambda one: abs(len(one.subject) - len(fact.subject)))
    return chosen
