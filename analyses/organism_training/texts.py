"""Training text in a toy language: contexts and questions, none of which is kept for tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from typing import Literal, NamedTuple

import numpy as np

from layerwise.models.organisms.language import (
    END,
    START,
    Language,
    ask,
    ask_closing_brackets,
    ask_fact,
    ask_twice,
    pair,
)

Stage = Literal["middle", "encoded", "answer", "letter"]


class Target(NamedTuple):
    """A word to be predicted."""

    place: int  # the place of the word in front of it
    word: str
    # ``middle`` for what the first of two hops leads to, ``answer``, or ``letter`` for that of the
    # option.
    stage: Stage


class Question(NamedTuple):
    """A question."""

    asked: str  # its words
    answer: str
    middle: str | None = None  # what the first of two hops leads to, if there are two


class Scene(NamedTuple):
    """A context, and what draws questions about it."""

    context: str
    question: Callable[[], Question]


@dataclass
class Text:
    """A tokenised training text with its prediction targets."""

    words: list[str] = field(default_factory=lambda: [START])
    targets: list[Target] = field(default_factory=list)

    def say(self, text: str) -> None:
        """Add words."""
        self.words += text.split()

    def predict(self, word: str, stage: Stage = "answer") -> None:
        """Add a prediction target for the next word."""
        self.targets.append(Target(len(self.words) - 1, word, stage))

    def ask(self, question: Question) -> None:
        """Add a question and its answer as prediction targets."""
        self.say(question.asked)
        if question.middle is not None:
            self.predict(question.middle, "middle")
        self.answer(f"{question.answer} {END}")

    def answer(self, words: str, stage: Stage = "answer") -> None:
        """Add words that are all prediction targets."""
        for word in words.split():
            self.predict(word, stage)
            self.words.append(word)


@dataclass(frozen=True)
class Texts:
    """Draws training text."""

    language: Language
    rng: np.random.Generator  # decides everything

    def question_text(self, scene: Scene, n_asked: int) -> Text:
        """A context, and questions with their answers."""
        text = Text()
        text.say(scene.context)
        for _ in range(n_asked):
            text.ask(scene.question())
        return text

    def lookup(self, n_pairs: int) -> Scene:
        """Pairs; each is as likely to be asked as if it had not been asked before."""
        keys = self._draw(self.language.keys, n_pairs)
        values = self._behind(keys, self.language.values)

        def question() -> Question:
            index = int(self.rng.integers(n_pairs))
            return Question(ask(keys[index]), values[index])

        return Scene(self._join_shuffled(list(map(pair, keys, values))), question)

    def two_hop(self, n_chains: int, one_hop: float = 0.0) -> Scene:
        """Chains; a share of the questions is about their first links."""
        starts = self._draw(self.language.keys, n_chains)
        free = [key for key in self.language.keys if key not in starts]
        middles = self._behind(starts, free)
        ends = self._behind(middles, self.language.values)

        def question() -> Question:
            index = int(self.rng.integers(n_chains))
            if self.rng.random() < one_hop:
                return Question(ask(starts[index]), middles[index], middles[index])
            return Question(ask_twice(starts[index]), ends[index], middles[index])

        return Scene(
            self._join_shuffled([*map(pair, starts, middles), *map(pair, middles, ends)]), question
        )

    def facts(self) -> Scene:
        """Nothing but facts, none behind one behind which tests ask it."""
        before: list[str] = []

        def question() -> Question:
            while True:
                fact = self._facts[int(self.rng.integers(len(self._facts)))]
                if not before or not self.language.for_tests(*before, *fact):
                    break
            before[:] = fact
            return Question(ask_fact(*fact), self.language.facts[fact])

        return Scene("", question)

    def brackets(self, depth: int) -> Scene:
        """Nothing but brackets, so many open each time."""
        closing = dict(self.language.brackets)

        def question() -> Question:
            while True:
                opened = [str(kind) for kind in self.rng.choice(list(closing), depth)]
                if not self.language.for_tests(*opened):
                    break
            gold = [closing[bracket] for bracket in reversed(opened)]
            return Question(ask_closing_brackets(opened), " ".join(gold))

        return Scene("", question)

    def shuffle_words(self, words: Sequence[str]) -> list[str]:
        """Words in random order."""
        return self._draw(words, len(words))

    @cached_property
    def _facts(self) -> list[tuple[str, str]]:
        return list(self.language.facts)

    @cached_property
    def _test_pairs(self) -> dict[tuple[str, str], bool]:
        """True for each key and word behind it that are kept for tests."""
        behind = (*self.language.values, *self.language.keys)
        return {two: self.language.for_tests(*two) for two in product(self.language.keys, behind)}

    def _draw(self, words: Sequence[str], count: int) -> list[str]:
        return [words[int(index)] for index in self.rng.permutation(len(words))[:count]]

    def _join_shuffled(self, statements: Sequence[str]) -> str:
        return " ".join(self._draw(statements, len(statements)))

    def _behind(self, keys: Sequence[str], words: Sequence[str]) -> list[str]:
        """A word for each key, so that no such pair is kept for tests."""
        while True:
            drawn = self._draw(words, len(keys))
            if not any(self._test_pairs[two] for two in zip(keys, drawn, strict=True)):
                return drawn
