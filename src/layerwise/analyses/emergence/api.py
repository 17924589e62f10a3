"""At what depth a capability emerges, by which method, how sure, and in what order.

Joins the results of other analyses; definitions are in ``docs/statistics.md`` and
``docs/emergence.md``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import combinations, groupby
from math import comb
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from layerwise import stats
from layerwise.analyses.ablation.joining import join_ablations
from layerwise.analyses.ablation.result import AblationResult
from layerwise.analyses.arguments import check_arguments
from layerwise.analyses.registry import CURVES, curves_in_words, with_curves
from layerwise.errors import UserError
from layerwise.ground.layer_names import COMPUTATION, axes_of
from layerwise.stats.depths import (
    accumulated,
    bounds,
    centre_of_mass,
    half_depth,
    later_by,
    two_sided_p,
)
from layerwise.stats.layer_curves import Evidence, LeftOut, Sampling, within
from layerwise.storage.base import Result
from layerwise.storage.parquet import frame
from layerwise.storage.provenance import join_facts
from layerwise.tasks.items import CAPABILITIES

from .method_agreement import CENTRE as CENTRE
from .method_agreement import HALF as HALF
from .method_agreement import agreement_rows
from .protocol_interaction import Groups, interaction_rows, layer_groups
from .result import EmergenceResult

CRITICAL, SETTLED = "critical set", "prediction depth"


class Summary(NamedTuple):
    """One measure of one capability.

    ``draws`` are in layers from the axis's first, draw 0 from the sample itself.
    """

    capability: str
    protocol: str
    method: str
    measure: str
    draws: Float[np.ndarray, " draws"]
    tasks: tuple[str, ...]
    n_items: int
    layers: list[int] | None = None
    axis: str = COMPUTATION


@check_arguments()
def emergence(
    results: Sequence[Result],
    *,
    seed: int = 0,
    n_resamples: int = 5000,
    groups: Groups | None = None,
) -> EmergenceResult:
    """Join results of one model into depths of capabilities, and tests of their order.

    Args:
        results: ablation, lens, patching and attribution results, any of them; others have no
            curves over the layers and are ignored.
        seed: seed of the bootstrap over items.
        n_resamples: number of bootstrap samples. No p-value of order is below about twice
            its inverse, and Holm's correction multiplies that by the rows of the table, so
            the default is enough for tables of up to 125 rows.
        groups: names of groups of layers, and their layers, that protocols are compared by;
            early, middle and late thirds if None.

    Returns:
        The tables of ``docs/results.md``: depths, their order, whether methods agree, and
        whether it depends on the protocol which layers matter. A task without signal is left
        out, and so are the depths by ablation of a capability that skipping any single layer
        does no significant harm to. Of an encoder-decoder depths are told on one axis of
        computation, encoder first, and within each stack.

    Raises:
        UserError: if there is nothing to join, or the results are of different models, or two
            hold the same task under the same protocol, or groups overlap or hold layers that
            are not there.
    """
    used = join_ablations(with_curves(results))
    if not used:
        raise UserError(
            f"Emergence has nothing to join: expected at least one {curves_in_words()} result; "
            "run one of these first."
        )
    facts = join_facts([result.facts for result in used])
    n_layers = facts.model.n_layers
    grouped, sampling = layer_groups(n_layers, groups), Sampling(seed, n_resamples, n_layers)
    found = list(evidence_of(used, sampling))
    _refuse_doubles(found)
    axes = axes_of(facts.model.n_encoder_layers, n_layers)
    summaries, left_out = _summarise(found, axes)
    whole = [summary for summary in summaries if summary.axis == COMPUTATION]
    placed = {(s.capability, s.protocol, s.method) for s in whole if s.measure == HALF}
    evidence = sorted((e for e in found if isinstance(e, Evidence)), key=_sort_key)
    ablated = [result for result in used if isinstance(result, AblationResult)]
    interaction = [
        row
        for result in ablated
        for row in interaction_rows(result.records, _chances(result), grouped, sampling)
    ]
    return EmergenceResult(
        frame("emergence", [_row(summary, axes[summary.axis]) for summary in summaries]),
        frame("order", _order_rows(whole, max(n_layers - 1, 1))),
        frame("method_agreement", agreement_rows(evidence, placed, sampling)),
        frame("protocol_interaction", interaction),
        frame("left_out", [each._asdict() for each in left_out]),
        facts.model_copy(update={"seed": seed, "created": datetime.now(UTC)}),
    )


def evidence_of(results: Sequence[Result], sampling: Sampling) -> Iterator[Evidence | LeftOut]:
    """What each method says about each task, of the results of one run; or why it says nothing.

    Args:
        results: those with curves over the layers, at most one of each kind.
        sampling: the resamples, which all methods share.
    """
    told = [(result, CURVES[type(result)]) for result in results]
    signal: dict[tuple[str, str], bool] = {}
    for result, curves in told:
        signal |= {} if curves.signal is None else curves.signal(result)
    for result, curves in sorted(told, key=lambda each: each[1].signal is None):
        yield from curves.evidence(result, signal, sampling)


def _chances(result: AblationResult) -> dict[tuple[str, str], float]:
    pairs = result.records[["task", "protocol"]].drop_duplicates().to_numpy()
    return {(task, name): result.facts.chance(task, name) for task, name in pairs}


def _refuse_doubles(found: Sequence[Evidence | LeftOut]) -> None:
    seen = set()
    for each in found:
        key = (each.method, each.task, each.protocol)
        if key in seen:
            raise UserError(
                f"Two results hold the {each.method} of task {each.task!r} under protocol "
                f"{each.protocol!r}: expected each once; leave one of them out."
            )
        seen.add(key)


def _summarise(
    found: Sequence[Evidence | LeftOut], axes: Mapping[str, range]
) -> tuple[list[Summary], list[LeftOut]]:
    """The measures on every axis, and what is left out of them."""
    evidence = sorted((e for e in found if isinstance(e, Evidence)), key=_sort_key)
    told: list[Summary | LeftOut] = [each for each in found if isinstance(each, LeftOut)]
    for axis, layers in axes.items():
        mine = evidence if axis == COMPUTATION else [within(e, layers) for e in evidence]
        shown = [e for e in mine if e is not None]
        for _, group in groupby(shown, key=lambda e: (e.method, e.protocol, e.capability)):
            told += [each._replace(axis=axis) for each in capability_summaries(list(group))]
    silent = [each for each in told if isinstance(each, LeftOut)]
    # what is left out of the whole axis is not told again of each stack
    whole = {each[:4] for each in silent if each.axis == COMPUTATION}
    return (
        [each for each in told if isinstance(each, Summary)],
        [each for each in silent if each.axis == COMPUTATION or each[:4] not in whole],
    )


def _sort_key(evidence: Evidence) -> tuple[Any, ...]:
    return (evidence.method, evidence.protocol, _rank(evidence.capability), evidence.task)


def _rank(capability: str) -> tuple[int, str]:
    known = list(CAPABILITIES)
    return (known.index(capability) if capability in known else len(known), capability)


def capability_summaries(group: Sequence[Evidence]) -> Iterator[Summary | LeftOut]:
    """The measures of one capability under one protocol by one method, from its tasks."""
    first = group[0]
    key = (first.capability, first.protocol, first.method)
    tasks, n_items = tuple(e.task for e in group), sum(e.n_items for e in group)
    rows = np.mean([e.rows for e in group], axis=0)
    masks = [e.critical for e in group if e.critical is not None]
    reason = None
    if masks:
        critical = np.any(masks, axis=0)
        layers = np.flatnonzero(critical[0]).tolist()
        sizes = critical.sum(axis=1).astype(float)
        yield Summary(*key, CRITICAL, sizes, tasks, n_items, layers)
        rows = accumulated(np.maximum(rows, 0.0))
        reason = None if layers else "skipping no single layer does significant harm"
    for measure, depth in ((HALF, half_depth(rows)), (CENTRE, centre_of_mass(rows))):
        if not reason and not np.isnan(depth[0]):
            yield Summary(*key, measure, depth, tasks, n_items)
    settled = [(e, e.settled) for e in group if e.settled is not None]
    if settled:
        draws = np.mean([draws for _, draws in settled], axis=0)
        named, n = tuple(e.task for e, _ in settled), sum(e.n_right for e, _ in settled)
        yield Summary(*key, SETTLED, draws, named, n)
    if reason:
        yield LeftOut(*key, None, reason)


def _row(summary: Summary, axis: range) -> dict[str, Any]:
    critical = summary.measure == CRITICAL
    # a critical set is a number of layers, of which there are one more than steps of depth
    first, scale = (0, len(axis)) if critical else (axis.start, max(len(axis) - 1, 1))
    kept, low, high = bounds(summary.draws, summary.n_items)
    estimate = float(summary.draws[0])
    if critical:  # resampled tests find more, see docs/statistics.md
        low, high = min(low, estimate), max(high, estimate)
    values = {"": estimate, "_low": low, "_high": high}
    found = summary.layers
    return {
        "capability": summary.capability,
        "protocol": summary.protocol,
        "method": summary.method,
        "measure": summary.measure,
        "axis": summary.axis,
        **{end.lstrip("_") or "estimate": value / scale for end, value in values.items()},
        **{f"layer{end}": first + value for end, value in values.items()},
        "layers": None if found is None else [axis.start + layer for layer in found],
        "n_items": summary.n_items,
        "n_tasks": len(summary.tasks),
        "tasks": ",".join(summary.tasks),
        "n_resamples": len(summary.draws) - 1,
        "n_dropped": len(summary.draws) - 1 - len(kept),
    }


def _order_rows(summaries: Sequence[Summary], last: int) -> list[dict[str, Any]]:
    depths = [s for s in summaries if s.measure != CRITICAL]
    rows = [
        _order_row(first, second, last)
        for first, second in combinations(depths, 2)
        if (first.method, first.protocol, first.measure)
        == (second.method, second.protocol, second.measure)
    ]
    adjusted = stats.holm(np.array([row["p"] for row in rows], dtype=float))
    return [row | {"p_holm": float(p)} for row, p in zip(rows, adjusted, strict=True)]


def _order_row(first: Summary, second: Summary, last: int) -> dict[str, Any]:
    differences = later_by(first.draws / last, second.draws / last)
    counts = first.n_items, second.n_items
    kept, low, high = bounds(differences, min(counts))
    return {
        "first": first.capability,
        "second": second.capability,
        "protocol": first.protocol,
        "method": first.method,
        "measure": first.measure,
        "difference": float(differences[0]),
        "low": low,
        "high": high,
        # no exact test of so few items could be surer
        "p": two_sided_p(kept, least=2 / comb(sum(counts), counts[0])),
    }
