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

from layerwise.stats.depth.depth_inference import (
    HALF,
    NOTHING,
    Axis,
    depth_difference,
    is_established,
)
from layerwise.stats.depth.depths import half_depth, later_by
from layerwise.stats.depth.item_curves import ItemCurves, costly_layers, curves_beyond_background
from layerwise.stats.depth.layer_curves import ABLATION
from layerwise.stats.families.estimate import with_holm
from layerwise.stats.signals.difficulty import Answers, accuracy_difference

from .summaries import SETTLED, Summary


def order_rows(
    summaries: Sequence[Summary],
    n_layers: int,
    smallest_depth: float,
    answered: Mapping[tuple[str, str], Answers],
) -> list[dict[str, Any]]:
    """Rows of ``order.parquet``: every two capabilities by one protocol, method and measure."""
    depths = [s for s in summaries if s.measure in (HALF, SETTLED)]
    rows = [
        _order_row(first, second, n_layers) | _accuracies(first, second, answered)
        for first, second in combinations(depths, 2)
        if (first.method, first.protocol, first.measure)
        == (second.method, second.protocol, second.measure)
    ]
    smallest = smallest_depth / max(n_layers - 1, 1)
    return [
        row | {"significant": is_established(row, row["p_holm"], smallest)}
        for row in with_holm(rows)
    ]


def tasks_apart(
    summaries: Sequence[Summary], n_layers: int, smallest_depth: float
) -> dict[Any, dict[str, Any]]:
    """Two tasks of a capability whose depths are shown to differ: columns of ``emergence.parquet``.

    Tests are those of the order of capabilities; Holm's correction is over all pairs of tasks.
    """
    pairs = [
        ((summary[:4], summary.axis), pair)
        for summary in summaries if summary.measure == HALF
        for pair in combinations(_by_task(summary), 2)
    ]  # fmt: skip
    rows = [_order_row(first, second, n_layers) for _, (first, second) in pairs]
    smallest = smallest_depth / max(n_layers - 1, 1)
    by_pair: dict[Any, dict[str, Any]] = {}
    tested = zip(pairs, with_holm(rows), strict=True)
    for (key, pair), row in sorted(
        tested, key=lambda each: np.nan_to_num(abs(each[1]["difference"]))
    ):
        first, last = pair if row["difference"] > 0 else pair[::-1]
        apart = last.draws[0] - first.draws[0] > smallest_depth - 1e-9
        if apart and is_established(row, row["p_holm"], smallest):
            by_pair[key] = {
                "task_first": first.tasks[0], "layer_first": float(first.draws[0]),
                "task_last": last.tasks[0], "layer_last": float(last.draws[0]),
                "p_tasks": row["p_holm"],
            }  # fmt: skip
    return by_pair


def _by_task(summary: Summary) -> list[Summary]:
    """The half-effect depth of each task by itself, where it has one."""
    alone = [
        summary._replace(capability=task, tasks=(task,), curves=(curves,), clusters=curves.grouped,
                         draws=np.array([_half_depth([curves])]))
        for task, curves in zip(summary.tasks, summary.curves, strict=True)
    ]  # fmt: skip
    return [summary for summary in alone if not np.isnan(summary.draws[0])]


def _half_depth(group: Sequence[ItemCurves]) -> float:
    """The half-effect depth of the mean of some tasks; nan where nothing is left in sum."""
    curve = np.mean([each.values.mean(axis=0) / each.scale.mean() for each in group], axis=0)
    return float(half_depth(curve[None] / curve[-1])[0]) if curve[-1] > NOTHING else np.nan


def _order_row(first: Summary, second: Summary, n_layers: int) -> dict[str, Any]:
    """The order of two capabilities; of what is ablated, beyond what both need."""
    last, counts = max(n_layers - 1, 1), (first.clusters.n, second.clusters.n)
    # no exact test of so few items could be surer
    least = 2 / comb(sum(counts), counts[0])
    axis, shared = Axis(n_layers, 0.0, last), None
    one, other, depths = first.curves, second.curves, (first.draws[0], second.draws[0])
    if first.method == ABLATION:
        # Layers that both need say nothing of which comes first, and damage that is spread
        # evenly pulls a depth to the middle.
        shared = sorted(costly_layers(one) & costly_layers(other))
        one, other = (
            tuple(curves_beyond_background(task, shared) for task in group)
            for group in (one, other)
        )
        depths = _half_depth(one), _half_depth(other)
    later = later_by(*(np.array([depth]) / last for depth in depths))
    low, high, p = np.nan, np.nan, 1.0
    if not np.isnan(later[0]):
        low, high, p = depth_difference(
            one, other, (axis, axis), paired=False, measure=first.measure, least=least
        )
    return {
        "first": first.capability,
        "second": second.capability,
        "protocol": first.protocol,
        "method": first.method,
        "measure": first.measure,
        "difference": float(later[0]),
        "low": low,
        "high": high,
        "p": p,
        "shared": shared,
    }


def _accuracies(
    first: Summary, second: Summary, answered: Mapping[tuple[str, str], Answers]
) -> dict[str, float]:
    """How often the intact model is right in each one's tasks; nothing where it is not known."""
    keys = [[(task, summary.protocol) for task in summary.tasks] for summary in (first, second)]
    if not all(key in answered for side in keys for key in side):
        return {}
    accuracy = accuracy_difference(*([answered[key] for key in side] for side in keys))
    return {
        "accuracy_first": accuracy.first,
        "accuracy_second": accuracy.second,
        "p_accuracy": accuracy.p,
    }
