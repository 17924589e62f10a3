"""Rates at which layers are said to interact where no two do on average, and true ones found.

What a pair costs beyond the sum of its two is made up, item by item, for the pairs of six layers.
The earlier rule tested it by sign flips of items alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from layerwise.stats import sign_flip_p_values
from layerwise.stats.families.estimate import ALPHA
from layerwise.stats.families.multiplicity import correct_family
from layerwise.stats.families.skewed_means import skewed_mean_p_values
from layerwise.stats.inference import exact_interval

N_SETS, N_FOUND, N_DRAWS = 300, 100, 3000
SIZES = (24, 70, 200)
N_PAIRS = 15
Beyond = Float[np.ndarray, "items pairs"]
Draw = Callable[[np.random.Generator, int], Beyond]


class World(NamedTuple):
    """Interactions of all pairs, and whether the first pair's has a mean other than 0."""

    name: str
    draw: Draw
    first: bool = False


def heavy_tails(rng: np.random.Generator, n: int) -> Beyond:
    """Student's t with 3 degrees of freedom, of items whose spread differs a hundredfold."""
    return np.exp(rng.normal(size=(n, 1))) * rng.standard_t(3, size=(n, N_PAIRS))


def lognormal(rng: np.random.Generator, n: int) -> Beyond:
    """Lognormal values minus their mean."""
    return np.exp(rng.normal(size=(n, N_PAIRS))) - np.exp(0.5)


def hard_items(rng: np.random.Generator, n: int) -> Beyond:
    """Lognormal values minus their mean, of items that interact strongly or little in all pairs."""
    both = rng.normal(size=(n, N_PAIRS)) + rng.normal(size=(n, 1))
    return np.exp(0.7 * both) - np.exp(0.7**2)


def one_in_ten(rng: np.random.Generator, n: int) -> Beyond:
    """Of ten items one costs 9 more together, and nine cost 1 less: 0 on average."""
    many = rng.random((n, N_PAIRS)) < 0.9
    return np.where(many, -1.0, 9.0) * (1 + 0.3 * rng.normal(size=(n, N_PAIRS)))


def with_first(first: Draw, others: Draw) -> Draw:
    """The first pair from one world, all others from another."""
    return lambda rng, n: np.column_stack([first(rng, n)[:, :1], others(rng, n)[:, 1:]])


def normal(spread: float, mean: float = 0.0) -> Draw:
    """Normal values."""
    return lambda rng, n: mean + spread * rng.normal(size=(n, N_PAIRS))


def small_tails(rng: np.random.Generator, n: int) -> Beyond:
    """Student's t with 3 degrees of freedom, times 0.3."""
    return 0.3 * rng.standard_t(3, size=(n, N_PAIRS))


def worlds() -> list[World]:
    """Worlds without interaction on average, and worlds in which the first pair has one."""

    def some(rng: np.random.Generator, n: int) -> Beyond:
        return np.column_stack([one_in_ten(rng, n)[:, :4], normal(0.3)(rng, n)[:, 4:]])

    def exponential(rng: np.random.Generator, n: int) -> Beyond:
        return rng.exponential(size=(n, N_PAIRS))

    def moved(draw: Draw, by: float, times: float = 1.0) -> Draw:
        return lambda rng, n: by + times * draw(rng, n)

    def beside_overlap(rng: np.random.Generator, n: int) -> Beyond:
        return np.column_stack([normal(1.0, -3.0)(rng, n)[:, :2], small_tails(rng, n)[:, 2:]])

    return [
        World("normal", normal(1.0)),
        World("heavy tails, unequal spread", heavy_tails),
        World("exponential", moved(exponential, -1.0)),
        World("lognormal", lognormal),
        World("lognormal, the same items in all pairs", hard_items),
        World("one item in ten balances the others", one_in_ten),
        World("the same in 4 of 15 pairs, others little", some),
        World("the same in 1 of 15 pairs, others little", with_first(one_in_ten, normal(0.3))),
        World("the same in 1 of 15 pairs, others as much", with_first(one_in_ten, normal(1.0))),
        World("lognormal in 1 of 15 pairs, others little", with_first(lognormal, normal(0.3))),
        World("0.5 of spread 1, normal", with_first(normal(1.0, 0.5), normal(1.0)), True),
        World("0.8 of spread 1, normal", with_first(normal(1.0, 0.8), normal(1.0)), True),
        World("1, exponential; others heavy tails", with_first(exponential, small_tails), True),
        World("-1, exponential; others heavy tails",
              with_first(moved(exponential, 0.0, -1.0), small_tails), True),
        World("0.5 beside heavy tails, unequal spread",
              with_first(moved(heavy_tails, 0.5, 0.2), moved(heavy_tails, 0.0, 0.2)), True),
        World("2 beside heavy tails, unequal spread",
              with_first(moved(heavy_tails, 2.0, 0.2), moved(heavy_tails, 0.0, 0.2)), True),
        World("0.4 beside a pair that overlaps by 3",
              with_first(normal(0.5, 0.4), beside_overlap), True),
        World("1.5 beside a pair that overlaps by 3",
              with_first(normal(0.5, 1.5), beside_overlap), True),
    ]  # fmt: skip


def significant(p: Float[np.ndarray, " pairs"]) -> np.ndarray:
    """Pairs that are significant within a table."""
    return correct_family(p, by_rate=True) < ALPHA


def claim_rates(n_sets: int = N_SETS, n_found: int = N_FOUND, seed: int = 0) -> pd.DataFrame:
    """Share of data sets in which any pair is significant, or the first where that is true."""
    rows = []
    for number, world in enumerate(worlds()):
        for n in SIZES:
            rng, sets = np.random.default_rng([seed, number, n]), n_found if world.first else n_sets
            counts = {"earlier": 0, "claimed": 0}
            for _ in range(sets):
                values = world.draw(rng, n)
                for rule, p in (
                    ("earlier", sign_flip_p_values(values, seed=rng, n_flips=N_DRAWS)),
                    ("claimed", skewed_mean_p_values(values, seed=rng, n_draws=N_DRAWS)),
                ):
                    found = significant(p)
                    counts[rule] += bool(found[0] if world.first else found.any())
            interval = exact_interval(counts["claimed"], sets)
            rows.append({"world": world.name, "interacts": world.first, "items": n, "sets": sets,
                         **counts, "rate": interval.estimate, "low": interval.low,
                         "high": interval.high})  # fmt: skip
    return pd.DataFrame(rows)
