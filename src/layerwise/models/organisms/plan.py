"""What is planted where in a trained organism, and what it is trained on.

A form of text always runs the layers that it is to need, while each other layer is skipped at
random, so that it cannot become necessary; and what it asks is read after the last of these
layers, so that it must be known there. Texts are drawn by ``texts``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from layerwise.models.organisms.texts import Scene, Stage, Text, Texts

N_LAYERS = 8
PLANTED = {"knowledge": (0,), "retrieval": (2, 3), "reasoning": (2, 3, 4), "coherence": (5, 6)}
"""The layers that each capability needs; 1 and 7 are needed by none."""

FEWEST_PAIRS, FULL_FROM, MOST_PAIRS = 3, 7, 10
"""Contexts have so many pairs at most: at first, when two hops become the rule, in the end."""


@dataclass(frozen=True)
class Form:
    """A form of training text.

    Attributes:
        capability: what it trains.
        reads: after which layer the predictions of a stage are read.
        scenes: what draws contexts of one size; the number is that of pairs at most.
        rows: texts a step.
        n_asked: questions a text.
    """

    capability: str
    reads: Mapping[Stage, int]
    scenes: Callable[[Texts, int], Callable[[], Scene]]
    rows: int
    n_asked: int

    @property
    def needs(self) -> tuple[int, ...]:
        """The layers that are never skipped."""
        return PLANTED[self.capability]

    def draw(self, texts: Texts, most_pairs: int) -> list[Text]:
        """The texts of one step, equally long."""
        scene = self.scenes(texts, most_pairs)
        return [texts.asked(scene(), self.n_asked) for _ in range(self.rows)]


def _n_pairs(texts: Texts, most: int) -> int:
    return int(texts.rng.integers(2, most + 1))


def _lookup(texts: Texts, most: int) -> Callable[[], Scene]:
    return partial(texts.lookup, _n_pairs(texts, most))


def _two_hop(texts: Texts, most: int) -> Callable[[], Scene]:
    n_chains = min(4, max(2, _n_pairs(texts, most) // 2))
    return partial(texts.two_hop, n_chains, 0.8 if most < FULL_FROM else 0.25)


def _facts(texts: Texts, most: int) -> Callable[[], Scene]:
    return texts.facts


def _brackets(texts: Texts, most: int) -> Callable[[], Scene]:
    return partial(texts.brackets, int(texts.rng.integers(4, 7)))


FORMS = (
    Form("knowledge", {"answer": 0}, _facts, rows=8, n_asked=8),
    Form("retrieval", {"answer": 3}, _lookup, rows=12, n_asked=5),
    Form("reasoning", {"middle": 3, "answer": 4}, _two_hop, rows=16, n_asked=5),
    Form("coherence", {"answer": 6}, _brackets, rows=12, n_asked=2),
)
