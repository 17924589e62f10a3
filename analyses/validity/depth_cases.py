"""Simulated answers of models whose depths are known, with layers that flip answers for nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from layerwise.stats.depth.depths import cumulative_share, half_depth

INDEPENDENT, MARGINAL = "independent", "marginal"
Effects = Mapping[int, float]

# Share of the above-chance accuracy that each needed layer costs at full effect.
SHAPES: dict[int, dict[str, dict[int, float]]] = {
    8: {
        "one": {2: 1.0},
        "last": {7: 1.0},
        "several": {1: 1.0, 5: 0.6},
        "spread": {layer: 0.25 for layer in range(8)},
    },
    30: {
        "one": {2: 1.0},
        "last": {29: 1.0},
        "several": {2: 1.0, 9: 0.5, 20: 0.4},
        "spread": {layer: 0.15 for layer in range(30)},
    },
}


class Case(NamedTuple):
    """One model asked one task.

    Attributes:
        n_layers: number of layers.
        n: number of items.
        effects: share of the above-chance accuracy lost by needed layer.
        flips: share of answers that a layer which is not needed changes, as many for the better
            as for the worse.
        accuracy: of the intact model.
        noise: ``independent``: any right answer may be lost, any wrong one gained, in each layer
            anew. ``marginal``: some items are answered at random whenever anything changes, and
            all others never change.
        chance: accuracy by guessing.
    """

    n_layers: int
    n: int
    effects: Effects
    flips: float
    accuracy: float
    noise: str = INDEPENDENT
    chance: float = 0.25

    @property
    def possible(self) -> bool:
        """True if so many answers can change and leave the accuracy what it is."""
        most = 2 if self.noise == INDEPENDENT else 1
        return self.flips <= most * min(self.accuracy, 1 - self.accuracy)


def answers(
    rng: np.random.Generator, case: Case, difficulty: Float[np.ndarray, " items"] | None = None
) -> tuple[Bool[np.ndarray, " items"], Bool[np.ndarray, "items layers"]]:
    """Right or wrong: intact, and with each layer skipped.

    Args:
        rng: the source of chance.
        case: what is simulated.
        difficulty: of the items, uniform on 0..1, which models that are asked the same share.
    """
    shape = case.n, case.n_layers
    hard = (rng.random(case.n) if difficulty is None else difficulty)[:, None]
    if case.noise == INDEPENDENT:
        intact = hard < case.accuracy
        rates = case.flips / 2 / np.where(intact, case.accuracy, 1 - case.accuracy)
        after = intact ^ (rng.random(shape) < rates)
    else:
        at_random, right = hard < 2 * case.flips, hard < case.flips + case.accuracy
        drawn = rng.random((case.n, case.n_layers + 1)) < 0.5
        both = np.where(at_random, drawn, right)
        intact, after = both[:, :1], both[:, 1:].copy()
    for layer, effect in case.effects.items():
        lost = rng.random(case.n) < effect
        after[:, layer] = np.where(lost, rng.random(case.n) < case.chance, intact[:, 0])
    return intact[:, 0], after


def true_half(effects: Effects, n_layers: int) -> float:
    """Half-effect depth of what is planted, in layers."""
    return float(half_depth(cumulative_share(_importance(effects, n_layers)[None]))[0])


def true_centre(effects: Effects, n_layers: int) -> float:
    """Centre of mass of what is planted, in layers."""
    importance = _importance(effects, n_layers)
    return float(importance @ np.arange(n_layers) / importance.sum())


def _importance(effects: Effects, n_layers: int) -> Float[np.ndarray, " layers"]:
    importance = np.zeros(n_layers)
    importance[list(effects)] = list(effects.values())
    return importance


def scale_effects(effects: Effects, by: float) -> dict[int, float]:
    """The same layers, needed less."""
    return {layer: effect * by for layer, effect in effects.items()}
