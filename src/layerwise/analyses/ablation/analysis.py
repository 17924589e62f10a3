"""Changing layers, heads, blocks and sets: its curves, and its declaration ``ANALYSIS``."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float

from layerwise import stats
from layerwise.analyses.contract import (
    Analysis,
    Curves,
    Extra,
    PlannableAnalysis,
    PlannedJobs,
    PlanOptions,
    saved_tables,
)
from layerwise.stats.cells import has_several_examples
from layerwise.stats.depth.item_curves import losses_by_item
from layerwise.stats.depth.layer_curves import (
    ABLATION,
    CriticalLayerTest,
    ExcludedTask,
    MethodCurve,
    Sampling,
    Signal,
    gap_reason,
)
from layerwise.stats.effects import ALPHA, Cell, cells, layer_skips
from layerwise.stats.families.multiplicity import correct_family
from layerwise.stats.items.clusters import Counts, resampled_tests
from layerwise.stats.signals.signal import signals, signals_from_table
from layerwise.storage.written import REQUESTS_FILE

from .claims.findings import findings, silent
from .page.sections import sections
from .result import AblationResult
from .tables.questions import QUESTIONS

if TYPE_CHECKING:
    from layerwise.runs.setup import Setup


def ablation_evidence(
    result: AblationResult, signal: Signal, sampling: Sampling
) -> Iterator[MethodCurve | ExcludedTask]:
    """Share lost by layer when the layer is skipped, per task and protocol."""
    records, chance = result.records, result.facts.chance
    if has_several_examples(records):
        why = "asked with several draws of few-shot examples, whose spread no depth knows of"
        groups = records[["capability", "protocol", "task"]].drop_duplicates()
        for capability, protocol, task in sorted(groups.itertuples(index=False, name=None)):
            yield ExcludedTask(capability, protocol, ABLATION, task, why)
        return
    every = list(cells(layer_skips(records)))
    own = signals(every, chance)
    for cell in every:
        key = (cell.capability, cell.protocol, ABLATION, cell.task)
        level = chance(cell.task, cell.protocol)
        skipped = cell.interventions["layer"].to_numpy(dtype=int)
        # first, for where there is none a profile skips no layers
        if not own[cell.task, cell.protocol]:
            yield ExcludedTask(*key, "no signal: the intact model is not better than blind")
        elif not np.array_equal(skipped, np.arange(sampling.n_layers)):
            yield ExcludedTask(*key, gap_reason("skipped", len(skipped), sampling.n_layers))
        else:
            yield _ablation_curve(cell, level, sampling)


def _ablation_curve(cell: Cell, chance: float, sampling: Sampling) -> MethodCurve:
    def critical(drawn: Counts) -> Bool[np.ndarray, "draws layers"]:
        total, p = resampled_tests(cell.net, cell.clusters, drawn)
        return (correct_family(p) < ALPHA) & (total > 0)

    (counts,) = sampling.counts([cell.task], [cell.clusters])
    values = np.column_stack([cell.intact, cell.floor(chance), cell.correct]).astype(float)
    return MethodCurve(
        ABLATION, cell.capability, cell.protocol, cell.task, cell.items, cell.clusters, values,
        _loss_shares,
        lambda of, clusters: losses_by_item(of[:, 0], of[:, 2:], of[:, 1], clusters),
        _loss_shares(cell.clusters.means_of_counts(values, counts)), critical(counts),
        tested=CriticalLayerTest(cell.clusters, critical),
    )  # fmt: skip


def _loss_shares(means: Float[np.ndarray, "draws columns"]) -> Float[np.ndarray, "draws layers"]:
    """Of means of the intact model, of what is left at the floor, and without each layer."""
    return stats.shares(means[:, :1], means[:, 2:], means[:, 1:2])


def _planned_jobs(setup: Setup, options: PlanOptions) -> PlannedJobs:
    from layerwise.runs.setup import check_layers

    from .api import planned_power
    from .job import Ablation
    from .spec import AblationSpec

    layers = check_layers(options["layers"], setup.model)
    changes = AblationSpec.for_model(
        setup.model, options["kind"], options["site"], layers, draws=options["draws"]
    )
    job = Ablation(setup, (changes,), fewshot_seeds=options["fewshot_seeds"])
    power = None if changes.heads else planned_power(setup, len(changes.layers))
    return PlannedJobs({"ablation": job}, power=power)


_OPTIONS = ("kind", "site", "layers", "draws", "fewshot_seeds")
# Of a profile the ablation itself, and the patching, change more by these.
PARTS = Extra("parts", "skip the attention and the MLP of each layer", planned=True)
HEADS = Extra("heads", "skip each head, and patch each head", planned=True)
ANALYSIS = Analysis(
    "ablation",
    AblationResult,
    sections,
    findings,
    caveats=silent,
    tables=lambda result, others: (
        saved_tables(result, others)
        | ({} if result.questions is None else {QUESTIONS: cache(result.questions)})
    ),
    files={QUESTIONS: REQUESTS_FILE},
    curves=Curves(
        "ablation", ablation_evidence, lambda result: signals_from_table(result.signal())
    ),
    plans=(PlannableAnalysis("ablation", _planned_jobs, options=_OPTIONS),),
    extras=(PARTS, HEADS),
)
