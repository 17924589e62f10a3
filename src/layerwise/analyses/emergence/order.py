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
from layerwise.stats.depth.depth_inference import (
    HALF,
    Axis,
    depth_difference,
    is_established,
    same_depth_p_value,
)
from layerwise.stats.depth.depths import half_depth, later_by
from layerwise.stats.depth.item_curves import ItemCurves, curves_beyond_background
from layerwise.stats.depth.layer_curves import ABLATION
from layerwise.stats.signals.difficulty import Answers, accuracy_difference

from .summaries import SETTLED, Summary


def order_rows(
    summaries: Sequence[Summary],
    n_layers: int,
    smallest_depth: float,
    answered: Mapping[tuple[str, str], Answers],
    needed: Mapping[str, set[int]],
) -> list[dict[str, Any]]:
    """Rows of ``order.parquet``: every two capabilities by one protocol, method and measure."""
    depths = [s for s in summaries if s.measure in (HALF, SETTLED)]
    rows = [
        _order_row(first, second, n_layers, needed) | _accuracies(first, second, answered)
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


def tasks_apart(
    summaries: Sequence[Summary], n_layers: int, smallest_depth: float
) -> dict[Any, dict[str, Any]]:
    """Two tasks of a capability whose depths are shown to differ: columns of ``emergence.parquet``.

    Tests are those of the order of capabilities; Holm's correction is over all pairs of tasks.
    """
    pairs = [
        ((one[:4], one.axis), pair)
        for one in summaries if one.measure == HALF
        for pair in combinations(_by_task(one), 2)
    ]  # fmt: skip
    rows = [_order_row(first, second, n_layers, {}) for _, (first, second) in pairs]
    adjusted = stats.holm(np.array([row["p"] for row in rows], dtype=float)).tolist()
    smallest = smallest_depth / max(n_layers - 1, 1)
    found: dict[Any, dict[str, Any]] = {}
    for (key, pair), row, p in sorted(
        zip(pairs, rows, adjusted, strict=True), key=lambda each: abs(each[1]["difference"])
    ):
        if is_established(row, p, smallest):
            first, last = sorted(pair, key=lambda one: one.draws[0])
            found[key] = {
                "task_first": first.tasks[0], "layer_first": float(first.draws[0]),
                "task_last": last.tasks[0], "layer_last": float(last.draws[0]), "p_tasks": p,
            }  # fmt: skip
    return found


def _by_task(summary: Summary) -> list[Summary]:
    """The half-effect depth of each task by itself, where it has one."""
    alone = [
        summary._replace(capability=task, tasks=(task,), curves=(curves,), clusters=curves.grouped,
                         draws=np.array([_half_depth([curves])]))
        for task, curves in zip(summary.tasks, summary.curves, strict=True)
    ]  # fmt: skip
    return [one for one in alone if not np.isnan(one.draws[0])]


def _half_depth(group: Sequence[ItemCurves]) -> float:
    """The half-effect depth of the mean of some tasks; nan where nothing is left in sum."""
    curve = np.mean([each.values.mean(axis=0) / each.scale.mean() for each in group], axis=0)
    return float(half_depth(curve[None] / curve[-1])[0]) if curve[-1] > 0 else np.nan


def _order_row(
    first: Summary, second: Summary, n_layers: int, needed: Mapping[str, set[int]]
) -> dict[str, Any]:
    last, counts = max(n_layers - 1, 1), (first.clusters.n, second.clusters.n)
    found = later_by(first.draws[:1] / last, second.draws[:1] / last)
    # no exact test of so few items could be surer
    least = 2 / comb(sum(counts), counts[0])
    axis = Axis(n_layers, 0.0, last)
    low, high, p = depth_difference(
        first.curves, second.curves, (axis, axis), paired=False, measure=first.measure, least=least
    )
    if first.method == ABLATION:
        both = needed.get(first.capability, set()) & needed.get(second.capability, set())
        p = max(p, _p_beyond_background(first, second, axis, sorted(both), float(found[0])))
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


def _p_beyond_background(
    first: Summary, second: Summary, axis: Axis, both: list[int], difference: float
) -> float:
    """The p-value of the same depth of what layers cost beyond what any layer costs.

    Damage that is spread evenly pulls a depth to the middle, and layers that both need say nothing
    of which comes first.
    """
    groups = [
        tuple(curves_beyond_background(curves, both) for curves in one.curves)
        for one in (first, second)
    ]
    depths = [_half_depth(group) for group in groups]
    if np.isnan(depths).any() or np.sign(depths[1] - depths[0]) != np.sign(difference):
        return 1.0
    return same_depth_p_value(groups[0], groups[1], (axis, axis), paired=False)


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
