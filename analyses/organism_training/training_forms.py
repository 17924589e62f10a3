"""Forms of training text: what each trains, how much of it a step has, and how hard it is.

A model's plan tells which of its layers a form needs and where it is read; texts are drawn by
``texts``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from .texts import Scene, Stage, Text, Texts

FEWEST_PAIRS, FULL_FROM, MOST_PAIRS = 3, 7, 10
"""Contexts have so many pairs at most: at first, when two hops become the rule, in the end."""


@dataclass(frozen=True)
class Form:
    """A form of training text."""

    capability: str  # what it trains
    needs: tuple[int, ...]  # the layers that are never skipped
    reads: Mapping[Stage, int]  # after which layer the predictions of a stage are read
    # What draws contexts of one size; the number is that of pairs at most.
    scenes: Callable[[Texts, int], Callable[[], Scene]]
    rows: int  # texts a step
    n_asked: int  # questions a text

    def draw(self, texts: Texts, most_pairs: int) -> list[Text]:
        """The texts of one step, equally long."""
        scene = self.scenes(texts, most_pairs)
        return [texts.question_text(scene(), self.n_asked) for _ in range(self.rows)]


def lookup(texts: Texts, most: int) -> Callable[[], Scene]:
    """Contexts to look up in."""
    return partial(texts.lookup, _n_pairs(texts, most))


def two_hop(texts: Texts, most: int) -> Callable[[], Scene]:
    """Chains, of which mostly one hop is asked at first."""
    n_chains = min(4, max(2, _n_pairs(texts, most) // 2))
    return partial(texts.two_hop, n_chains, 0.8 if most < FULL_FROM else 0.25)


def facts(texts: Texts, most: int) -> Callable[[], Scene]:
    """Facts, however many pairs there are."""
    return texts.facts


def brackets(texts: Texts, most: int) -> Callable[[], Scene]:
    """Four to six open brackets, however many pairs there are."""
    return partial(texts.brackets, int(texts.rng.integers(4, 7)))


def _n_pairs(texts: Texts, most: int) -> int:
    return int(texts.rng.integers(2, most + 1))
