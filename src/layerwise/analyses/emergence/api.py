"""At what depth a capability emerges, by which method, how sure, and in what order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from layerwise.analyses.ablation.result import AblationResult, join_ablations
from layerwise.analyses.arguments import ResultList, check_arguments
from layerwise.analyses.measurements import CURVES, curves_in_words, with_curves
from layerwise.errors import UserError
from layerwise.ground.argument_types import NamedLayers, Resamples, Seed
from layerwise.ground.layer_names import COMPUTATION, layer_axes
from layerwise.stats.cells import has_several_examples
from layerwise.stats.depth.depth_inference import refuse_negative_depth
from layerwise.stats.depth.layer_curves import ExcludedTask, MethodCurve, Sampling
from layerwise.stats.effects import cells, layer_skips
from layerwise.stats.signals.signal import IntactAnswers
from layerwise.storage.base import Result
from layerwise.storage.parquet import frame
from layerwise.storage.provenance import join_facts

from .protocol_interaction import interaction_rows, layer_groups
from .result import EmergenceResult
from .summaries import CENTRE as CENTRE
from .summaries import CRITICAL as CRITICAL
from .summaries import HALF as HALF
from .summaries import SETTLED as SETTLED
from .summaries import (
    agreement_rows,
    evidence_key,
    order_rows,
    summarise_curves,
    summary_row,
    task_depth_columns,
)


@check_arguments()
def emergence(
    results: ResultList,
    *,
    seed: Seed = 0,
    n_resamples: Resamples = 5000,
    groups: NamedLayers | None = None,
    smallest_depth: float = 1.0,
) -> EmergenceResult:
    """Compute depths of capabilities from results of one model, and test their order.

    Args:
        results: ablation, lens, patching and attribution results, any of them; others have no
            curves over the layers and are ignored.
        seed: seed of the bootstrap over items.
        n_resamples: number of bootstrap samples, for what is resampled: critical sets, prediction
            depths and rank correlations.
        groups: names of groups of layers, and their layers, that protocols are compared by;
            early, middle and late thirds if None.
        smallest_depth: smallest difference of depth that is of interest, in layers; an order by
            less is not told.

    Returns:
        The tables of ``docs/results.md``: depths, their order, whether methods agree, and
        whether it depends on the depth how unlike the protocols are. A task without signal is left
        out, and so are the depths by ablation of a capability that skipping any single layer
        does no significant harm to. Of an encoder-decoder depths are told on one axis of
        computation, encoder first, and within each stack.

    Raises:
        UserError: if there is nothing to join, or the results are of different models, or two
            hold the same task under the same protocol, or groups overlap or hold layers that
            are not there, or ``smallest_depth`` is below 0.
    """
    refuse_negative_depth(smallest_depth)
    used = join_ablations(with_curves(results))
    if not used:
        raise UserError(
            f"Emergence has nothing to join: expected at least one {curves_in_words()} result; "
            "run one of these first."
        )
    facts = join_facts([result.facts for result in used])
    n_layers = facts.model.n_layers
    grouped, sampling = layer_groups(n_layers, groups), Sampling(seed, n_resamples, n_layers)
    everything = list(collect_curves(used, sampling))
    counts = Counter((each.method, each.task, each.protocol) for each in everything)
    for method, task, protocol in (key for key, n in counts.items() if n > 1):
        raise UserError(
            f"Two results hold the {method} of task {task!r} under protocol {protocol!r}: expected "
            "each once; leave one of them out."
        )
    axes = layer_axes(facts.model.n_encoder_layers, n_layers)
    summaries, left_out = summarise_curves(everything, axes, sampling)
    whole = [summary for summary in summaries if summary.axis == COMPUTATION]
    placed = {(s.capability, s.protocol, s.method) for s in whole if s.measure == HALF}
    evidence = sorted((e for e in everything if isinstance(e, MethodCurve)), key=evidence_key)
    # both are of one draw of few-shot examples
    ablated = [
        (result.records, result.facts.chance) for result in used
        if isinstance(result, AblationResult) and not has_several_examples(result.records)
    ]  # fmt: skip
    interaction = [
        row for ablation in ablated for row in interaction_rows(*ablation, grouped, sampling)
    ]
    answers = {
        (cell.task, cell.protocol): IntactAnswers(cell.intact, cell.clusters)
        for records, _ in ablated
        for cell in cells(layer_skips(records))
    }
    apart = task_depth_columns(whole, n_layers, smallest_depth)
    rows = [
        summary_row(each, axes[each.axis]) | apart.get((each[:4], each.axis), {})
        for each in summaries
    ]
    return EmergenceResult(
        frame("emergence", rows),
        frame("order", order_rows(whole, n_layers, smallest_depth, answers)),
        frame("method_agreement", agreement_rows(evidence, placed, sampling, smallest_depth)),
        frame("protocol_interaction", interaction),
        frame("left_out", [each._asdict() for each in left_out]),
        facts.model_copy(update={"seed": seed, "created": datetime.now(UTC)}),
    )


def collect_curves(
    results: Sequence[Result], sampling: Sampling
) -> Iterator[MethodCurve | ExcludedTask]:
    """Evidence of each method on each task, of the results of one run; or why there is none."""
    curves_of = [(result, CURVES[type(result)]) for result in results]
    signal: dict[tuple[str, str], bool] = {}
    for result, curves in curves_of:
        signal |= {} if curves.signal is None else curves.signal(result)
    for result, curves in sorted(curves_of, key=lambda each: each[1].signal is None):
        yield from curves.evidence(result, signal, sampling)
