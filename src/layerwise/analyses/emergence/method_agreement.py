"""Whether methods agree on a capability: the same depth, and the same ranking of layers?

Depths themselves are named in ``emergence``; definitions are in ``docs/emergence.md``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Float

from layerwise import stats
from layerwise.stats.depth.depth_inference import HALF, Axis, depth_difference, is_established
from layerwise.stats.depth.depths import accumulated, half_depth, later_by
from layerwise.stats.depth.layer_curves import MethodCurve, Sampling, drawn_together
from layerwise.stats.families.estimate import with_holm
from layerwise.stats.families.rank_correlation import rank_correlation
from layerwise.stats.items.clusters import Clusters

RANKS = "rank correlation"
Key = tuple[str, str, str]
Rows = Float[np.ndarray, "draws columns"]
# Decimals of shares; what differs by less is rounding, and ranks no layer above another.
_ROUNDING = 6


def agreement_rows(
    evidence: Sequence[MethodCurve],
    placed: Collection[Key],
    sampling: Sampling,
    smallest_depth: float,
) -> list[dict[str, Any]]:
    """Every pair of methods that placed a capability, compared on the items of both."""
    groups = {key: [e for e in evidence if _key(e) == key] for key in map(_key, evidence)}
    pairs = combinations((group for key, group in groups.items() if key in placed), 2)
    rows = [row for first, other in pairs if _asked_alike(first, other)
            for row in _compared(first, other, sampling)]  # fmt: skip
    unit = max(sampling.n_layers - 1, 1)
    smallest = {HALF: smallest_depth / unit, RANKS: 0.0}
    return [
        row | {"significant": is_established(row | {"difference": row["estimate"]}, row["p_holm"],
                                             smallest[row["measure"]])}
        for row in with_holm(rows, by=["measure"])
    ]  # fmt: skip


def _key(evidence: MethodCurve) -> Key:
    return evidence.capability, evidence.protocol, evidence.method


def _asked_alike(one: Sequence[MethodCurve], other: Sequence[MethodCurve]) -> bool:
    """Whether two methods saw the same prompts; those of ``generate`` are continuation's."""
    (first, protocol, method), (second, read, another) = _key(one[0]), _key(other[0])
    if first != second or method == another:
        return False
    generates = any(e.of_losses and e.protocol == "generate" for e in (one[0], other[0]))
    return protocol == read or (generates and "continuation" in (protocol, read))


def _compared(
    one: Sequence[MethodCurve], other: Sequence[MethodCurve], sampling: Sampling
) -> Iterator[dict[str, Any]]:
    """Differences of depth and the correlation over layers, on tasks and items of both."""
    both = [(a, b, sorted({*a.items} & {*b.items})) for a in one for b in other if a.task == b.task]
    both = [(a, b, items) for a, b, items in both if len(items) > 1]
    if not both:
        return
    named = {
        "capability": one[0].capability,
        # a method that reads prompts has no protocol of its own beside generation
        "protocol": one[0].protocol if one[0].of_losses else other[0].protocol,
        "first": one[0].method,
        "second": other[0].method,
        "n_items": sum(len(items) for *_, items in both),
        "n_tasks": len(both),
        "tasks": ",".join(a.task for a, *_ in both),
    }
    first = drawn_together([a.of_items(items, sampling) for a, _, items in both], sampling)
    second = drawn_together([b.of_items(items, sampling) for _, b, items in both], sampling)
    together = Clusters.joined([e.clusters for e in first])
    means = [np.mean([e.rows for e in side], axis=0) for side in (first, second)]
    unit = max(sampling.n_layers - 1, 1)
    depths = [
        half_depth(_curve(side[0], mean)[:1]) / unit
        for side, mean in zip((first, second), means, strict=True)
    ]
    later = later_by(*depths)
    if not np.isnan(later[0]):
        axis = Axis(sampling.n_layers, 0.0, unit)
        one_curves, other_curves = ([e.item_curves for e in side] for side in (first, second))
        # no exact paired test of so few items could be surer
        least = 2.0 ** (1 - together.n)
        test = depth_difference(one_curves, other_curves, (axis, axis), paired=True, least=least)
        known = {"first_depth": float(depths[0][0]), "second_depth": float(depths[1][0])}
        yield named | known | {"measure": HALF, "estimate": float(later[0])} | test._asdict()
    ranked, also_ranked = (
        _by_layer(e, mean) for e, mean in zip((one[0], other[0]), means, strict=True)
    )
    random = stats.generator(sampling.seed, RANKS, *(a.task for a, *_ in both))
    # no exact paired test of so few items could be surer
    rho = rank_correlation(ranked, also_ranked, together.n, random, least=2.0 ** (1 - together.n))
    if not np.isnan(rho.estimate):
        yield named | {"measure": RANKS} | rho._asdict()


def _curve(of: MethodCurve, rows: Rows) -> Float[np.ndarray, "draws edges"]:
    return accumulated(rows) if of.of_losses else rows


def _by_layer(of: MethodCurve, rows: Rows) -> Float[np.ndarray, "draws layers"]:
    return np.round(rows if of.of_losses else np.diff(rows, axis=1), _ROUNDING)
