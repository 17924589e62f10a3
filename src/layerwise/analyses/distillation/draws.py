"""What each step of a training draws, which follows from the seed and the step alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from layerwise import stats

from .lessons import Lesson

# Points of the curve where held-out texts are read, and how many of them, at most.
POINTS, MEASURED = 10, 32


class Drawn(NamedTuple):
    """The texts of a step.

    Attributes:
        places: which texts.
        own: of each, whether the student writes it itself.
        seeds: of what it writes.
    """

    places: list[int]
    own: list[bool]
    seeds: list[int]


def drawn_at(step: int, seed: int, n_texts: int, batch: int, on_policy: float) -> Drawn:
    """The texts of a step."""
    rng = stats.generator(seed, f"step {step} of the distillation")
    chosen = rng.permutation(n_texts)[:batch]
    own = (rng.random(len(chosen)) < on_policy).tolist()
    return Drawn(chosen.tolist(), own, rng.integers(2**62, size=len(chosen)).tolist())


def of_curve(held_out: Sequence[Lesson], seed: int) -> list[Lesson]:
    """The held-out texts that the curve is measured on."""
    # The texts lie task by task, so the first ones would leave the last tasks out.
    order = stats.generator(seed, "texts of the curve").permutation(len(held_out))
    return [held_out[place] for place in order[:MEASURED]]


def at_point(done: int, steps: int) -> bool:
    """Whether held-out texts are read after so many steps."""
    return done == steps or done % -(-steps // POINTS) == 0
