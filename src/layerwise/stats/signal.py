"""Is there anything to lose? Which tasks the intact model is above chance on, over a whole run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int

from .inference import holm

# One-sided, as the lower end of a 95 % interval.
LEVEL = 0.025


@runtime_checkable
class Asked(Protocol):
    """A task under a protocol, and whether the intact model was right."""

    @property
    def task(self) -> str:
        """The task's name."""
        ...

    @property
    def protocol(self) -> str:
        """The protocol."""
        ...

    @property
    def intact(self) -> Bool[np.ndarray, " items"]:
        """Whether the intact model was right, by item."""
        ...


def above_chance_p_values(
    right: Int[np.ndarray, " cells"],
    n: Int[np.ndarray, " cells"],
    chance: Float[np.ndarray, " cells"],
) -> Float[np.ndarray, " cells"]:
    """One-sided exact binomial test of the intact accuracy against guessing.

    Below 0.025 exactly where the 95 % interval of Clopper and Pearson (1934, Biometrika 26) lies
    above chance.

    Args:
        right: items that were answered right.
        n: items in all.
        chance: accuracy by guessing, in 0..1; of 0 a single right answer is enough.
    """
    from scipy.stats import binom

    return np.asarray(binom.sf(right - 1, n, chance))


def signals(
    asked: Sequence[Asked], chance: Callable[[str, str], float]
) -> dict[tuple[str, str], bool]:
    """Which tasks and protocols of a run have signal, after Holm's correction over all of them.

    Of many suites that a model only guesses on, some would pass one by one.

    Args:
        asked: every task and protocol that was asked in the run, each once.
        chance: (task, protocol) -> accuracy by guessing.
    """
    counts = [(int(cell.intact.sum()), len(cell.intact)) for cell in asked]
    levels = np.array([chance(cell.task, cell.protocol) for cell in asked], dtype=float)
    right, n = np.array(counts, dtype=int).reshape(-1, 2).T
    p = holm(above_chance_p_values(right, n, levels))
    return {
        (cell.task, cell.protocol): bool(value < LEVEL)
        for cell, value in zip(asked, p, strict=True)
    }
