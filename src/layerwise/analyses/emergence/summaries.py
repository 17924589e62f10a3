"""The measures of each capability by each method, and whether methods agree."""

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
from layerwise.stats.depth.depths import (
    bounds,
    centre_of_mass,
    cumulative_share,
    half_depth,
    relative_depth_difference,
)
from layerwise.stats.depth.item_curves import (
    ItemCurves,
    curves_above_background,
    layers_in_doubt,
    shared_layers,
)
from layerwise.stats.depth.layer_curves import (
    ABLATION,
    ExcludedTask,
    MethodCurve,
    Sampling,
    resample_jointly,
    restrict_to_stack,
)
from layerwise.stats.families.multiplicity import correct_rows
from layerwise.stats.families.rank_correlation import rank_correlation
from layerwise.stats.items.clusters import Clusters
from layerwise.stats.signals.signal import IntactAnswers, accuracy_difference
from layerwise.tasks.items import CAPABILITIES

CRITICAL, SETTLED, RANKS = "critical set", "prediction depth", "rank correlation"
# Decimals of shares; what differs by less is rounding, and ranks no layer above another.
_ROUNDING = 6


def agreement_rows(
    evidence: Sequence[MethodCurve],
    placed: Collection[tuple[str, str, str]],
    sampling: Sampling,
    smallest_depth: float,
) -> list[dict[str, Any]]:
    """Every pair of methods that placed a capability, compared on the items of both."""
    groups: dict[tuple[str, str, str], list[MethodCurve]] = {}
    for e in evidence:
        if (key := (e.capability, e.protocol, e.method)) in placed:
            groups.setdefault(key, []).append(e)
    pairs = combinations(groups.values(), 2)
    rows = [row for first, other in pairs if _same_prompts(first[0], other[0])
            for row in _compare_methods(first, other, sampling)]  # fmt: skip
    unit = max(sampling.n_layers - 1, 1)
    smallest = {HALF: smallest_depth / unit, RANKS: 0.0}
    return [
        row | {"significant": is_established(row | {"difference": row["estimate"]}, row["p_holm"],
                                             smallest[row["measure"]])}
        for row in correct_rows(rows, by=["measure"])
    ]  # fmt: skip


def _same_prompts(one: MethodCurve, other: MethodCurve) -> bool:
    """True if two methods saw the same prompts; those of ``generate`` are continuation's."""
    if one.capability != other.capability or one.method == other.method:
        return False
    protocols = one.protocol, other.protocol
    generates = any(e.has_losses and e.protocol == "generate" for e in (one, other))
    return one.protocol == other.protocol or (generates and "continuation" in protocols)


def _compare_methods(
    one: Sequence[MethodCurve], other: Sequence[MethodCurve], sampling: Sampling
) -> Iterator[dict[str, Any]]:
    """Differences of depth and the correlation over layers, on tasks and items of both."""
    both = [(a, b, sorted({*a.items} & {*b.items})) for a in one for b in other if a.task == b.task]
    both = [(a, b, items) for a, b, items in both if len(items) > 1]
    if not both:
        return
    tasks = [a.task for a, *_ in both]
    named = {
        "capability": one[0].capability,
        # a method that reads prompts has no protocol of its own beside generation
        "protocol": one[0].protocol if one[0].has_losses else other[0].protocol,
        "first": one[0].method,
        "second": other[0].method,
        "n_items": sum(len(items) for *_, items in both),
        "n_tasks": len(both),
        "tasks": ",".join(tasks),
    }
    first = resample_jointly([a.select_items(items, sampling) for a, _, items in both], sampling)
    second = resample_jointly([b.select_items(items, sampling) for _, b, items in both], sampling)
    together, unit = (
        Clusters.concatenate([e.clusters for e in first]),
        max(sampling.n_layers - 1, 1),
    )
    least = 2.0 ** (1 - together.n)  # no exact paired test of so few items could be surer
    means = [(np.mean([e.rows for e in side], axis=0), side[0].has_losses)
             for side in (first, second)]  # fmt: skip
    depths = [
        half_depth((cumulative_share(mean) if has_losses else mean)[:1]) / unit
        for mean, has_losses in means
    ]
    later = relative_depth_difference(*depths)
    if not np.isnan(later[0]):
        axis = Axis(sampling.n_layers, 0.0, unit)
        curves, others = ([e.item_curves for e in side] for side in (first, second))
        test = depth_difference(curves, others, (axis, axis), paired=True, least=least)
        known = {"first_depth": float(depths[0][0]), "second_depth": float(depths[1][0])}
        yield named | known | {"measure": HALF, "estimate": float(later[0])} | test._asdict()
    added, others_added = (
        np.round(mean if has_losses else np.diff(mean, axis=1), _ROUNDING)
        for mean, has_losses in means
    )
    random = stats.generator(sampling.seed, RANKS, *tasks)
    rho = rank_correlation(added, others_added, together.n, random, least=least)
    if not np.isnan(rho.estimate):
        yield named | {"measure": RANKS} | rho._asdict()


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
        # resampled tests find more, see docs/statistics/depths.md
        estimate = float(self.draws[0])
        return min(low, estimate), max(high, estimate)


def summarise_curves(
    curves: Sequence[MethodCurve | ExcludedTask], axes: Mapping[str, range], sampling: Sampling
) -> tuple[list[Summary], list[ExcludedTask]]:
    """The measures on every axis, and what is left out of them."""
    evidence = sorted((e for e in curves if isinstance(e, MethodCurve)), key=evidence_key)
    summaries: list[Summary] = []
    silent = [each for each in curves if isinstance(each, ExcludedTask)]
    for axis, layers in axes.items():
        placed = (
            evidence if axis == COMPUTATION else [restrict_to_stack(e, layers) for e in evidence]
        )
        shown = [e for e in placed if e is not None]
        for _, group in groupby(shown, key=lambda e: (e.method, e.protocol, e.capability)):
            for each in capability_summaries(list(group), sampling):
                of_axis: Any = each._replace(axis=axis)
                (summaries if isinstance(each, Summary) else silent).append(of_axis)
    # what is left out of the whole axis is not told again of each stack
    whole = {each[:4] for each in silent if each.axis == COMPUTATION}
    return summaries, [e for e in silent if e.axis == COMPUTATION or e[:4] not in whole]


def evidence_key(evidence: MethodCurve) -> tuple[Any, ...]:
    """The order of evidence: by method, protocol, capability and task."""
    known, capability = list(CAPABILITIES), evidence.capability
    rank = known.index(capability) if capability in known else len(known)
    return (evidence.method, evidence.protocol, rank, capability, evidence.task)


def capability_summaries(
    tasks_evidence: Sequence[MethodCurve], sampling: Sampling
) -> Iterator[Summary | ExcludedTask]:
    """The measures of one capability under one protocol by one method, from its tasks."""
    group = resample_jointly(tasks_evidence, sampling)
    first = group[0]
    key = (first.capability, first.protocol, first.method)
    tasks, n_items = tuple(e.task for e in group), sum(e.n_items for e in group)
    clusters = Clusters.concatenate([e.clusters for e in group])
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
        rows = cumulative_share(rows)
    curves = tuple(e.item_curves for e in group)
    for measure, depth in ((HALF, half_depth(rows)), (CENTRE, centre_of_mass(rows))):
        if not reason and not np.isnan(depth[0]):
            yield Summary(*key, measure, depth, tasks, n_items, clusters, curves=curves)
    settled = [(e, e.settled) for e in group if e.settled is not None]
    if settled:
        draws = np.mean([draws for _, draws in settled], axis=0)
        named, n = tuple(e.task for e, _ in settled), sum(e.n_right for e, _ in settled)
        curves = tuple(e.settled_curves for e, _ in settled if e.settled_curves is not None)
        right = Clusters.concatenate(
            [curve.item_clusters.select_items(curve.scale > 0) for curve in curves]
        )
        yield Summary(*key, SETTLED, draws, named, n, right, curves=curves)
    if reason:
        yield ExcludedTask(*key, None, reason)


def summary_row(summary: Summary, axis: range) -> dict[str, Any]:
    """A row of ``emergence``."""
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
    answered: Mapping[tuple[str, str], IntactAnswers],
) -> list[dict[str, Any]]:
    """Rows of ``order``: every two capabilities by one protocol, method and measure."""
    depths = [s for s in summaries if s.measure in (HALF, SETTLED)]
    rows = []
    for both in combinations(depths, 2):
        if both[0][1:4] != both[1][1:4]:
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
        for row in correct_rows(rows)
    ]


def task_depth_columns(
    summaries: Sequence[Summary], n_layers: int, smallest_depth: float
) -> dict[Any, dict[str, Any]]:
    """Columns of ``emergence``: two tasks of a capability shown to differ in depth."""
    pairs = []
    for summary in (each for each in summaries if each.measure == HALF):
        alone = [
            summary._replace(capability=task, tasks=(task,), curves=(curves,),
                             clusters=curves.item_clusters, draws=np.array([_half_depth([curves])]))
            for task, curves in zip(summary.tasks, summary.curves, strict=True)
        ]  # fmt: skip
        placed = [task for task in alone if not np.isnan(task.draws[0])]
        pairs += [((summary[:4], summary.axis), pair) for pair in combinations(placed, 2)]
    tested = correct_rows([_order_row(first, second, n_layers) for _, (first, second) in pairs])
    smallest = smallest_depth / max(n_layers - 1, 1)
    by_pair: dict[Any, dict[str, Any]] = {}
    for (key, pair), row in sorted(  # the widest apart last, which stays
        zip(pairs, tested, strict=True), key=lambda each: np.nan_to_num(abs(each[1]["difference"]))
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
    """The order of two capabilities; of what is ablated, beyond what both may need."""
    groups, shared = (first.curves, second.curves), None
    if first.method == ABLATION:
        # Layers that both need say nothing of which comes first, and damage that is spread
        # evenly pulls a depth to the middle. Layers in doubt may be left out or not: an order
        # must hold both ways, because leaving out one of several moves a depth, too.
        surely = shared_layers(*groups)
        ways = [sorted(surely), sorted(surely | layers_in_doubt(*groups))]
        shared = ways[-1]
        left = [[tuple(curves_above_background(task, way) for task in group) for group in groups]
                for way in ways[: 1 + (ways[0] != ways[1])]]  # fmt: skip
        found = [_difference(first, second, [_half_depth(group) for group in each], each, n_layers)
                 for each in left]  # fmt: skip
    else:
        depths = [first.draws[0], second.draws[0]]
        found = [_difference(first, second, depths, groups, n_layers)]
    # nan is the least, so that nothing is found if one way finds nothing
    difference, low, high, p = min(found, key=lambda each: abs(np.nan_to_num(each[0])))
    if len(found) > 1 and not np.isnan([each[0] for each in found]).any():
        low, high, p = (pick(each[end] for each in found)
                        for end, pick in ((1, min), (2, max), (3, max)))  # fmt: skip
    return {
        "first": first.capability,
        "second": second.capability,
        "protocol": first.protocol,
        "method": first.method,
        "measure": first.measure,
        "difference": difference,
        "low": low,
        "high": high,
        "p": p,
        "shared": shared,
    }


def _difference(
    first: Summary,
    second: Summary,
    depths: Sequence[float],
    groups: Sequence[Sequence[ItemCurves]],
    n_layers: int,
) -> tuple[float, float, float, float]:
    """The second depth minus the first with its bounds and p; nan where one has no depth."""
    last, counts = max(n_layers - 1, 1), (first.clusters.n, second.clusters.n)
    later = float(relative_depth_difference(*(np.array([depth]) / last for depth in depths))[0])
    if np.isnan(later):
        return np.nan, np.nan, np.nan, 1.0
    # no exact test of so few items could be surer
    axis, least = Axis(n_layers, 0.0, last), 2 / comb(sum(counts), counts[0])
    low, high, p = depth_difference(
        groups[0], groups[1], (axis, axis), paired=False, measure=first.measure, least=least
    )
    return later, low, high, p
