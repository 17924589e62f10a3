"""Toy languages: which words there are, which facts hold, and what is kept for tests."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from layerwise.errors import UserError

BRACKETS = (("(", ")"), ("[", "]"), ("{", "}"), ("<", ">"))
OPTIONS = ("A", "B", "C", "D")
PAD, START, UNKNOWN = "<pad>", "<s>", "<unk>"
MARKS = (";", "->", "ask", "ask2", "of", "open", "Answer:")


@dataclass(frozen=True)
class Language:
    """A toy language.

    Attributes:
        name: what its suites' names begin with.
        n_keys: number of words ``k0``, ``k1``, ... that are looked up.
        n_values: number of words ``v0``, ... that answer.
        n_entities: number of words ``ent0``, ... that facts are about.
        n_relations: number of words ``rel0``, ...; each entity has one value in each relation.
        n_brackets: kinds of brackets, from none to 4.
        facts_seed: decides the facts.
        test_share: one in so many combinations of words is kept for tests and never trained on;
            1 if nothing is trained, so that all of them are for tests.
        n_hops: look-ups that a question asks for at most, one behind the other: 1 or 2.
    """

    name: str
    n_keys: int
    n_values: int
    n_entities: int
    n_relations: int
    n_brackets: int = 0
    facts_seed: int = 0
    test_share: int = 1
    n_hops: int = 2

    def __post_init__(self) -> None:
        least = {"n_keys": 4, "n_values": 4, "n_entities": 0, "n_relations": 0, "n_brackets": 0}
        least |= {"test_share": 1, "n_hops": 1}
        for field, smallest in least.items():
            if getattr(self, field) < smallest:
                raise UserError(
                    f"The language {self.name!r} has {field} {getattr(self, field)}; expected "
                    f"{smallest} or more."
                )
        if self.n_brackets > len(BRACKETS):
            raise UserError(
                f"The language {self.name!r} has {self.n_brackets} kinds of brackets; expected at "
                f"most {len(BRACKETS)}."
            )

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """The words that are looked up."""
        return _numbered_words("k", self.n_keys)

    @cached_property
    def values(self) -> tuple[str, ...]:
        """The words that answer."""
        return _numbered_words("v", self.n_values)

    @cached_property
    def entities(self) -> tuple[str, ...]:
        """The words that facts are about."""
        return _numbered_words("ent", self.n_entities)

    @cached_property
    def relations(self) -> tuple[str, ...]:
        """The words for what is asked about an entity."""
        return _numbered_words("rel", self.n_relations)

    @property
    def brackets(self) -> tuple[tuple[str, str], ...]:
        """Opening and closing brackets, by kind."""
        return BRACKETS[: self.n_brackets]

    @cached_property
    def words(self) -> tuple[str, ...]:
        """The vocabulary, special tokens first; a word's place is its token id."""
        letters = tuple(f"{letter}." for letter in OPTIONS)
        brackets = tuple(word for pair in self.brackets for word in pair)
        named = (*self.keys, *self.values, *self.entities, *self.relations)
        return (PAD, START, UNKNOWN, *MARKS, *OPTIONS, *letters, *brackets, *named)

    @cached_property
    def facts(self) -> Mapping[tuple[str, str], str]:
        """The value of each relation and entity; in each relation all values are as frequent."""
        rng = np.random.default_rng([self.facts_seed, *b"facts"])
        known = {}
        for relation in self.relations:
            order = rng.permutation(self.n_entities)
            for place, entity in enumerate(order):
                value = self.values[place % self.n_values]
                known[relation, self.entities[int(entity)]] = value
        return known

    def for_tests(self, *words: str) -> bool:
        """True if a combination of words is kept for tests, by its hash."""
        digest = hashlib.sha256(" ".join(words).encode()).digest()
        return int.from_bytes(digest[:8], "big") % self.test_share == 0


def _numbered_words(stem: str, count: int) -> tuple[str, ...]:
    return tuple(f"{stem}{index}" for index in range(count))


ORGANISM = Language(
    "organism",
    n_keys=40,
    n_values=40,
    n_entities=120,
    n_relations=3,
    n_brackets=4,
    test_share=8,
)
"""The language of ``organism-decoder`` and ``organism-seq2seq``."""

LETTERS = Language(
    "letters",
    n_keys=40,
    n_values=40,
    n_entities=120,
    n_relations=3,
    test_share=8,
    n_hops=1,
)
"""The language of ``organism-letters`` and similar models, also asked with lettered options."""

WIRED = Language("wired", n_keys=12, n_values=12, n_entities=24, n_relations=2)
"""The language of ``wired-decoder``."""


ARROW, END, CUE = "->", ";", "Answer:"


def pair(key: str, value: str) -> str:
    """A key with what it stands for: ``k3 v17 ;`` or, as the link of a chain, ``k3 k9 ;``."""
    return f"{key} {value} {END}"


def ask(key: str) -> str:
    """Question for what the key stands for."""
    return f"ask {key} {ARROW}"


def ask_twice(key: str) -> str:
    """Question for what that stands for which the key stands for."""
    return f"ask2 {key} {ARROW}"


def ask_fact(relation: str, entity: str) -> str:
    """The value of an entity in a relation."""
    return f"{relation} of {entity} {ARROW}"


def ask_closing_brackets(brackets: Sequence[str]) -> str:
    """The brackets that close the open ones."""
    return f"open {' '.join(brackets)} {ARROW}"


def lettered_question(question: str, options: Sequence[str]) -> str:
    """A question with lettered options, up to where its letter is said."""
    shown = " ".join(f"{letter}. {option}" for letter, option in zip(OPTIONS, options, strict=True))
    return f"{question} {shown} {CUE}"


def answered_question(question: str, answer: str) -> str:
    """A question with its answer."""
    return f"{question} {answer} {END}"
