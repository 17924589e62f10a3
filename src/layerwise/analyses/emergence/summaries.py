"""The measures of each capability by each method, joined from its tasks, and whether methods agree.

Definitions are in ``docs/statistics.md``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import combinations, groupby
from math import comb
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from layerwise import stats
from layerwise.ground.layer_names import COMPUTATION
from layerwise.stats.depth.depth_inference import (
    CENTRE,
    HALF,
    NOTHING,
    Axis,
    depth_bounds,
    depth_difference,
    is_established,
)
from layerwise.stats.depth.depths import accumulated, bounds, centre_of_mass, half_depth, later_by
from layerwise.stats.depth.item_curves import ItemCurves, costly_layers, curves_beyond_background
from layerwise.stats.depth.layer_curves import (
    ABLATION,
    LeftOut,
    MethodCurve,
    Sampling,
    drawn_together,
    within,
)
from layerwise.stats.families.estimate import with_holm
from layerwise.stats.families.rank_correlation import rank_correlation
from layerwise.stats.items.clusters import Clusters
from layerwise.stats.signals.difficulty import Answers, accuracy_difference
from layerwise.tasks.items import CAPABILITIES

RANKS = "rank correlation"
Key = tuple[str, str, str]
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
    rows = [row for first, other in pairs if _same_tasks(first, other)
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


def _same_tasks(one: Sequence[MethodCurve], other: Sequence[MethodCurve]) -> bool:
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
        half_depth((accumulated(mean) if side[0].of_losses else mean)[:1]) / unit
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
        np.round(mean if side[0].of_losses else np.diff(mean, axis=1), _ROUNDING)
        for side, mean in zip((one, other), means, strict=True)
    )
    random = stats.generator(sampling.seed, RANKS, *(a.task for a, *_ in both))
    # no exact paired test of so few items could be surer
    rho = rank_correlation(ranked, also_ranked, together.n, random, least=2.0 ** (1 - together.n))
    if not np.isnan(rho.estimate):
        yield named | {"measure": RANKS} | rho._asdict()


CRITICAL, SETTLED = "critical set", "prediction depth"


class Summary(NamedTuple):
    """One measure of one capability."""

    capability: str
    protocol: str  # under which it was asked
    method: str  # by which it was placed
    measure: str
    # In layers from the axis's first; row 0 from the sample, the others from resamples.
    draws: Float[np.ndarray, " draws"]
    tasks: tuple[str, ...]  # names of its tasks
    n_items: int
    clusters: Clusters  # which of these items ask for the same thing
    layers: list[int] | None = None  # of a critical set, its layers; otherwise None
    # Of depths that are inferred without resampling, the curves of each task.
    curves: tuple[ItemCurves, ...] = ()
    axis: str = COMPUTATION  # the layers that it is about

    def bounds(self) -> tuple[float, float]:
        """Its 95 % interval, in layers from the axis's first."""
        if self.curves:
            return depth_bounds(self.curves, self.measure)
        _, low, high = bounds(self.draws, self.clusters.n)
        if self.measure != CRITICAL:
            return low, high
        # resampled tests find more, see docs/statistics.md
        estimate = float(self.draws[0])
        return min(low, estimate), max(high, estimate)


def summarised(
    curves: Sequence[MethodCurve | LeftOut], axes: Mapping[str, range], sampling: Sampling
) -> tuple[list[Summary], list[LeftOut]]:
    """The measures on every axis, and what is left out of them."""
    evidence = sorted((e for e in curves if isinstance(e, MethodCurve)), key=evidence_key)
    rows: list[Summary | LeftOut] = [each for each in curves if isinstance(each, LeftOut)]
    for axis, layers in axes.items():
        placed = evidence if axis == COMPUTATION else [within(e, layers) for e in evidence]
        shown = [e for e in placed if e is not None]
        for _, group in groupby(shown, key=lambda e: (e.method, e.protocol, e.capability)):
            of_axis = capability_summaries(list(group), sampling)
            rows += [each._replace(axis=axis) for each in of_axis]
    silent = [each for each in rows if isinstance(each, LeftOut)]
    # what is left out of the whole axis is not told again of each stack
    whole = {each[:4] for each in silent if each.axis == COMPUTATION}
    return (
        [each for each in rows if isinstance(each, Summary)],
        [each for each in silent if each.axis == COMPUTATION or each[:4] not in whole],
    )


def evidence_key(evidence: MethodCurve) -> tuple[Any, ...]:
    """The order of evidence: by method, protocol, capability and task."""
    known, capability = list(CAPABILITIES), evidence.capability
    rank = known.index(capability) if capability in known else len(known)
    return (evidence.method, evidence.protocol, rank, capability, evidence.task)


def capability_summaries(
    tasks_evidence: Sequence[MethodCurve], sampling: Sampling
) -> Iterator[Summary | LeftOut]:
    """The measures of one capability under one protocol by one method, from its tasks."""
    group = drawn_together(tasks_evidence, sampling)
    first = group[0]
    key = (first.capability, first.protocol, first.method)
    tasks, n_items = tuple(e.task for e in group), sum(e.n_items for e in group)
    clusters = Clusters.joined([e.clusters for e in group])
    rows = np.mean([e.rows for e in group], axis=0)
    masks = [e.critical for e in group if e.critical is not None]
    reason = None
    if masks:
        critical = np.any(masks, axis=0)
        layers = np.flatnonzero(critical[0]).tolist()
        sizes = critical.sum(axis=1).astype(float)
        yield Summary(*key, CRITICAL, sizes, tasks, n_items, clusters, layers)
        reason = None if layers else "skipping no single layer does significant harm"
        if layers and not rows[0].sum() > 0:
            reason = "skipping layers one by one gains as much as it loses"
        rows = accumulated(rows)
    curves = tuple(e.item_curves for e in group)
    for measure, depth in ((HALF, half_depth(rows)), (CENTRE, centre_of_mass(rows))):
        if not reason and not np.isnan(depth[0]):
            yield Summary(*key, measure, depth, tasks, n_items, clusters, curves=curves)
    settled = [(e, e.settled) for e in group if e.settled is not None]
    if settled:
        draws = np.mean([draws for _, draws in settled], axis=0)
        named, n = tuple(e.task for e, _ in settled), sum(e.n_right for e, _ in settled)
        curves = tuple(e.settled_curves for e, _ in settled if e.settled_curves is not None)
        right = Clusters.joined([curve.grouped.only(curve.scale > 0) for curve in curves])
        yield Summary(*key, SETTLED, draws, named, n, right, curves=curves)
    if reason:
        yield LeftOut(*key, None, reason)


def summary_row(summary: Summary, axis: range) -> dict[str, Any]:
    """A row of ``emergence.parquet``."""
    critical = summary.measure == CRITICAL
    # a critical set is a number of layers, of which there are one more than steps of depth
    first, scale = (0, len(axis)) if critical else (axis.start, max(len(axis) - 1, 1))
    low, high = summary.bounds()
    values = {"": float(summary.draws[0]), "_low": low, "_high": high}
    layers, drawn = summary.layers, np.zeros(0) if summary.curves else summary.draws[1:]
    return {
        "capability": summary.capability,
        "protocol": summary.protocol,
        "method": summary.method,
        "measure": summary.measure,
        "axis": summary.axis,
        **{end.lstrip("_") or "estimate": value / scale for end, value in values.items()},
        **{f"layer{end}": first + value for end, value in values.items()},
        "layers": None if layers is None else [axis.start + layer for layer in layers],
        "n_items": summary.n_items,
        "n_tasks": len(summary.tasks),
        "tasks": ",".join(summary.tasks),
        "n_resamples": len(drawn),
        "n_dropped": int(np.isnan(drawn).sum()),
    }


def order_rows(
    summaries: Sequence[Summary],
    n_layers: int,
    smallest_depth: float,
    answered: Mapping[tuple[str, str], Answers],
) -> list[dict[str, Any]]:
    """Rows of ``order.parquet``: every two capabilities by one protocol, method and measure."""
    depths = [s for s in summaries if s.measure in (HALF, SETTLED)]
    rows = []
    for both in combinations(depths, 2):
        if len({(s.method, s.protocol, s.measure) for s in both}) > 1:
            continue
        rows.append(_order_row(*both, n_layers))
        keys = [[(task, summary.protocol) for task in summary.tasks] for summary in both]
        if all(key in answered for side in keys for key in side):
            accuracy = accuracy_difference(*([answered[key] for key in side] for side in keys))
            first, second, p = accuracy.first, accuracy.second, accuracy.p
            rows[-1] |= {"accuracy_first": first, "accuracy_second": second, "p_accuracy": p}
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
    pairs = []
    for summary in (each for each in summaries if each.measure == HALF):
        alone = [
            summary._replace(capability=task, tasks=(task,), curves=(curves,),
                             clusters=curves.grouped, draws=np.array([_half_depth([curves])]))
            for task, curves in zip(summary.tasks, summary.curves, strict=True)
        ]  # fmt: skip
        placed = [task for task in alone if not np.isnan(task.draws[0])]
        pairs += [((summary[:4], summary.axis), pair) for pair in combinations(placed, 2)]
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
