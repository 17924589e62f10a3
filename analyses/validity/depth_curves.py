"""Depths by lenses and patching in simulation: intervals by inverted tests and by percentiles.

Their curves are of values that are read at every edge, not of single losses, and end at 1 by
construction. What varies are the items: where, how far and how steeply their own curve rises.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from layerwise import stats
from layerwise.stats.depth.depth_inference import HALF, Axis, depth_p_value, same_depth_p_value
from layerwise.stats.depth.depths import half_depth
from layerwise.stats.depth.item_curves import progress_by_item
from layerwise.stats.effects import ALPHA
from layerwise.stats.inference import two_sided_p

N_LAYERS, DEPTH = 30, 12.0
KINDS = ("alike", "scattered", "few items count", "two places", "patched pairs")
ITEMS = (20, 40, 100, 200)
SIZES = ((20, 20), (40, 40), (200, 40))
SETS, RESAMPLES = 400, 200
_EDGES = np.arange(-1, N_LAYERS)
Values = Float[np.ndarray, "items edges"]


def curves(rng: np.random.Generator, kind: str, n: int, shift: float = 0.0) -> Values:
    """Values of each item at each edge, from 0 before the first layer on.

    Args:
        rng: the source of chance.
        kind: how items differ: all rise ``alike``; ``scattered`` over the layers; ``few items
            count``, the others hardly rise; ``two places``, the one for sure answers; ``patched
            pairs`` whose whole difference varies, and may be reversed.
        n: number of items.
        shift: by how many layers all rise later.
    """
    early, one = rng.random((n, 1)) < 0.3, rng.random((n, 1))
    normal = rng.standard_normal((n, 1))
    centre, height = {
        "alike": (12 + normal, rng.beta(5, 2, (n, 1))),
        "scattered": (12 + 8 * normal, rng.beta(5, 2, (n, 1))),
        "few items count": (12 + 4 * normal, rng.beta(0.15, 0.6, (n, 1))),
        "two places": (np.where(early, 3, 22) + normal, np.where(early, 0.8, one**2)),
        "patched pairs": (12 + 5 * normal, 2 + 3 * rng.standard_normal((n, 1))),
    }[kind]
    values = height / (1 + np.exp(-(_EDGES - centre - shift) / 0.7))
    values = values * np.exp(0.3 * rng.standard_normal(values.shape))
    return values - values[:, :1]


def true_depth(kind: str, shift: float = 0.0) -> float:
    """Half-effect depth of very many items, in layers."""
    mean = curves(stats.generator(0, kind), kind, 50_000, shift).mean(axis=0, keepdims=True)
    return float(half_depth(mean / mean[:, -1:])[0])


def shift_for_depth(kind: str, depth: float = DEPTH) -> float:
    """Number of layers by which a kind must be shifted to have the depth."""
    low, high = -12.0, 12.0
    for _ in range(14):
        middle = (low + high) / 2
        low, high = (middle, high) if true_depth(kind, middle) < depth else (low, middle)
    return (low + high) / 2


def measure(
    sets: int = SETS, items: Sequence[int] = ITEMS, sizes: Sequence[tuple[int, int]] = SIZES
) -> pd.DataFrame:
    """One row per kind and number of items, and per two kinds of the same depth.

    Args:
        sets: simulated data sets per row.
        items: numbers of items.
        sizes: numbers of items of two capabilities.

    Returns:
        ``kind``, ``other`` (null: one alone), ``items``, ``other_items``, ``sets``, ``inverted``,
        ``percentile``: of one alone, sets whose interval holds the true depth; of two, sets in
        which they are called different.
    """
    shifts = {kind: shift_for_depth(kind) for kind in KINDS}
    rows = []
    for kind, n in product(KINDS, items):
        rng = stats.generator(0, kind, str(n))
        found = [_simulate_once(rng, kind, shifts[kind], n) for _ in range(sets)]
        rows.append(
            {"kind": kind, "other": None, "items": n, "other_items": 0} | _sum_outcomes(found)
        )
    for (i, kind), (j, other) in product(enumerate(KINDS), repeat=2):
        for n, m in sizes if i <= j else ():
            rng = stats.generator(0, kind, other, str((n, m)))
            both = ((kind, shifts[kind], n), (other, shifts[other], m))
            found = [_two(rng, both) for _ in range(sets)]
            named = {"kind": kind, "other": other, "items": n, "other_items": m}
            rows.append(named | _sum_outcomes(found))
    return pd.DataFrame(rows)


def worst_rates(table: pd.DataFrame) -> pd.DataFrame:
    """The worst rates of both ways: least coverage, most false differences."""
    rates = table[["inverted", "percentile"]].div(table["sets"], axis=0)
    alone = table["other"].isna()
    return pd.DataFrame({"least coverage": rates[alone].min(), "most false": rates[~alone].max()})


def _sum_outcomes(found: Sequence[dict[str, bool]]) -> dict[str, Any]:
    counts = {name: int(np.sum([each[name] for each in found])) for name in found[0]}
    return {"sets": len(found)} | counts


def _simulate_once(rng: np.random.Generator, kind: str, shift: float, n: int) -> dict[str, bool]:
    values = curves(rng, kind, n, shift)
    low, high = np.nanquantile(_depths(rng, values), [0.025, 0.975])
    p = depth_p_value([progress_by_item(values)], HALF, DEPTH)
    return {"inverted": p >= ALPHA, "percentile": bool(low <= DEPTH <= high)}


def _two(rng: np.random.Generator, both: Sequence[tuple[str, float, int]]) -> dict[str, bool]:
    one, other = (curves(rng, kind, n, shift) for kind, shift, n in both)
    apart = _depths(rng, other) - _depths(rng, one)
    axis = Axis(N_LAYERS, 0.0, N_LAYERS - 1.0)
    sides = [progress_by_item(one)], [progress_by_item(other)]
    p = same_depth_p_value(*sides, (axis, axis), paired=False)
    return {"inverted": p < ALPHA, "percentile": two_sided_p(apart[~np.isnan(apart)]) < ALPHA}


def _depths(rng: np.random.Generator, values: Values) -> Float[np.ndarray, " draws"]:
    n = len(values)
    means = rng.multinomial(n, np.full(n, 1 / n), RESAMPLES) @ values / n
    return half_depth(means / np.where(means[:, -1:] > 0, means[:, -1:], np.nan))
