"""Tests of the order in which capabilities emerge.

A centre of mass has no test here: it needs more items than a half-effect depth for the same
difference, and says less (``docs/statistics.md``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from math import comb
from typing import Any

import numpy as np

from layerwise import stats
from layerwise.stats.depth_inference import HALF, Axis, depth_difference, is_established
from layerwise.stats.depths import later_by
from layerwise.stats.difficulty import Answers, accuracy_difference

from .summaries import SETTLED, Summary


def order_rows(
    summaries: Sequence[Summary],
    n_layers: int,
    smallest_depth: float,
    answered: Mapping[tuple[str, str], Answers],
) -> list[dict[str, Any]]:
    """Rows of ``order.parquet``: every two capabilities by one protocol, method and measure.

    Args:
        summaries: of the whole axis of computation.
        n_layers: number of layers.
        smallest_depth: smallest difference that is of interest, in layers.
        answered: the intact model's answers by task and protocol, where they are known.
    """
    depths = [s for s in summaries if s.measure in (HALF, SETTLED)]
    rows = [
        _order_row(first, second, n_layers) | _accuracies(first, second, answered)
        for first, second in combinations(depths, 2)
        if (first.method, first.protocol, first.measure)
        == (second.method, second.protocol, second.measure)
    ]
    adjusted = stats.holm(np.array([row["p"] for row in rows], dtype=float))
    smallest = smallest_depth / max(n_layers - 1, 1)
    return [
        row | {"p_holm": float(p), "significant": is_established(row, float(p), smallest)}
        for row, p in zip(rows, adjusted, strict=True)
    ]


def _order_row(first: Summary, second: Summary, n_layers: int) -> dict[str, Any]:
    last, counts = max(n_layers - 1, 1), (first.clusters.n, second.clusters.n)
    found = later_by(first.draws[:1] / last, second.draws[:1] / last)
    # no exact test of so few items could be surer
    least = 2 / comb(sum(counts), counts[0])
    axis = Axis(n_layers, 0.0, last)
    low, high, p = depth_difference(
        first.curves, second.curves, (axis, axis), paired=False, measure=first.measure, least=least
    )
    return {
        "first": first.capability,
        "second": second.capability,
        "protocol": first.protocol,
        "method": first.method,
        "measure": first.measure,
        "difference": float(found[0]),
        "low": low,
        "high": high,
        "p": p,
    }


def _accuracies(
    first: Summary, second: Summary, answered: Mapping[tuple[str, str], Answers]
) -> dict[str, float]:
    """How often the intact model is right in each one's tasks; nothing where it is not known."""
    keys = [[(task, one.protocol) for task in one.tasks] for one in (first, second)]
    if not all(key in answered for mine in keys for key in mine):
        return {}
    found = accuracy_difference(*([answered[key] for key in mine] for mine in keys))
    return {
        "accuracy_first": found.first,
        "accuracy_second": found.second,
        "p_accuracy": found.p,
    }
