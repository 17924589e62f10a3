"""Crossings: layer i costs capability A more than layer j does, and layer j costs B more.

If layers differ only in how much they damage, and each capability's score falls with the damage in
its own way, no two layers cross. A difference in difficulty alone makes no crossing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from math import comb
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from layerwise.stats.families.multiplicity import correct_family
from layerwise.stats.items.clusters import paired_p_values
from layerwise.stats.pools import LEVEL, Pool, match_protocols

CROSSING = "crossing"
# Pairs of layers that are tested at once, so that memory stays small.
_CHUNK = 1024


class Side(NamedTuple):
    """One of two capabilities, and how its layers compare on the same items."""

    pool: Pool
    # One-sided p-values of "the layer of the row costs no more than that of the column".
    p: Float[np.ndarray, "layers layers"]

    @classmethod
    def from_pool(cls, pool: Pool) -> Side:
        """Exact sign flips of whole items for each pair of layers."""
        p = np.ones((len(pool.layers), len(pool.layers)))
        one, other = np.triu_indices(len(p), 1)
        for start in range(0, len(one), _CHUNK):
            i, j = one[start : start + _CHUNK], other[start : start + _CHUNK]
            net = pool.net[:, i] - pool.net[:, j]
            total, either_way = net.sum(axis=0), paired_p_values(net, pool.clusters) / 2
            p[i, j] = np.where(total > 0, either_way, 1.0)
            p[j, i] = np.where(total < 0, either_way, 1.0)
        return cls(pool, p)


def crossing_p_values(first: Side, second: Side) -> Float[np.ndarray, "layers layers"]:
    """P-values of crossings: row i costs the first more than column j, j costs the second more.

    Both sides must show it, so the larger p-value counts (Berger 1982, Technometrics 24). That no
    two layers cross is what state-trace analysis calls one latent order (Bamber 1979, J. Math.
    Psychol. 19; Dunn and Kalish 2018, State-Trace Analysis).
    """
    return np.maximum(first.p, second.p.T)


def crossings_table(every: Sequence[Pool], n_capabilities: int) -> pd.DataFrame:
    """Rows of ``capability_estimates`` on crossings, one for each side of each.

    All ordered pairs of layers and pairs of capabilities that were asked are one family (Holm).
    Crossings that are nowhere near are left out, but for the nearest of each pair of capabilities.
    """
    pairs = [
        (Side.from_pool(compared[0]), Side.from_pool(compared[1]))
        for pair in combinations(every, 2)
        if (compared := match_protocols(*pair)) is not None
    ]
    n_layers = max((len(pool.layers) for pool in every), default=0)
    if not pairs or n_layers < 2:
        return pd.DataFrame()
    n_tests = comb(n_capabilities, 2) * n_layers * (n_layers - 1)
    places = [np.argwhere(~np.eye(len(side.p), dtype=bool)) for side, _ in pairs]
    p = [crossing_p_values(*sides)[tuple(at.T)] for sides, at in zip(pairs, places, strict=True)]
    adjusted = np.split(
        correct_family(np.concatenate(p), n_tests), np.cumsum([len(each) for each in p])[:-1]
    )
    crossings = [
        _Crossing(*sides, int(at[n][0]), int(at[n][1]), float(own[n]), float(family[n]))
        for sides, at, own, family in zip(pairs, places, p, adjusted, strict=True)
        for n in (np.flatnonzero(own < LEVEL) if own.min() < LEVEL else [own.argmin()])
    ]
    names = _crossing_protocols(crossings)
    return pd.concat(
        [
            row
            for crossing, protocols in zip(crossings, names, strict=True)
            for row in crossing.rows(n_tests, protocols)
        ],
        ignore_index=True,
    )


class _Crossing(NamedTuple):
    """Two layers and two capabilities, with the test that they cross."""

    first: Side
    second: Side
    i: int  # place of the layer that costs the first capability more
    j: int  # place of the layer that costs the second one more
    p: float
    p_family: float

    @property
    def sides(self) -> tuple[tuple[Pool, Pool, int, int], ...]:
        """Each capability, the other one, the layer that costs it more and the other layer."""
        one, other = self.first.pool, self.second.pool
        return (one, other, self.i, self.j), (other, one, self.j, self.i)

    def p_of_protocol(self, protocol: str) -> float:
        """The p-value under one of the protocols alone."""
        of_sides = [
            (pool.select_protocols([protocol]), layer, than) for pool, _, layer, than in self.sides
        ]
        return max(
            float(pool.p_more(pool.net[:, [layer]] - pool.net[:, [than]])[0])
            for pool, layer, than in of_sides
        )

    def rows(self, n_tests: int, protocols: tuple[str, ...]) -> Iterator[pd.DataFrame]:
        """A row for each side."""
        established = self.p_family < LEVEL and bool(protocols)
        for pool, other, layer, than in self.sides:
            difference = pool.loss[:, layer] - pool.loss[:, than]
            low, high = (float(end[0]) for end in pool.bounds(difference[:, None], n_tests))
            net = pool.net[:, [layer]] - pool.net[:, [than]]
            right = pool.intact.mean() - pool.loss.mean(axis=0)
            yield pd.DataFrame(
                {
                    "what": CROSSING,
                    "layer": pool.layers[layer],
                    "other_layer": pool.layers[than],
                    "capability": pool.capability,
                    "other": other.capability,
                    "tasks": ", ".join(pool.tasks),
                    "protocols": ", ".join(pool.protocols),
                    "tasks_alone": pool.tasks_alone(net)[0],
                    "protocols_alone": ", ".join(protocols),
                    "n_items": pool.clusters.n,
                    "n_other": other.clusters.n,
                    "n_answers": len(pool.loss),
                    "acc_intact": float(pool.intact.mean()),
                    "acc": float(right[layer]),
                    "acc_other_layer": float(right[than]),
                    "estimate": float(difference.mean()),
                    "low": max(low, 0.0) if established else low,
                    "high": high,
                    "p": self.p,
                    "p_table": self.p_family,
                    "n_tests": n_tests,
                    "established": established,
                },
                index=[0],
            )


def _crossing_protocols(crossings: Sequence[_Crossing]) -> list[tuple[str, ...]]:
    """Protocols that show each crossing by themselves; none where both sides never cross together.

    A layer that only writing needs costs one capability more where the other one only chooses well.
    So crossings of the sums are tested again under each protocol (Holm over those established).
    """
    sure = [crossing for crossing in crossings if crossing.p_family < LEVEL]
    tests = [(one, name) for one in sure for name in one.first.pool.protocols]
    p = (
        correct_family(np.array([one.p_of_protocol(name) for one, name in tests]))
        if tests
        else np.ones(0)
    )
    alone: dict[tuple[int, str], bool] = {
        (id(one), name): bool(value < LEVEL) for (one, name), value in zip(tests, p, strict=True)
    }
    return [
        tuple(name for name in one.first.pool.protocols if alone.get((id(one), name), False))
        for one in crossings
    ]
