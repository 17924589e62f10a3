"""Activation patching: its curves, its part of a page, and ``ANALYSIS``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from layerwise.analyses.contract import Analysis, Curves, Planned, PlannedJobs, PlanOptions
from layerwise.stats.depth.layer_curves import (
    PATCHING,
    TASK,
    LeftOut,
    MethodCurve,
    Sampling,
    Signal,
    progress,
    task_key,
    while_the_encoder_runs,
    with_own_signal,
)
from layerwise.storage.base import Result

from .findings import findings
from .report import sections
from .result import PatchingResult
from .tables import signals_of_pairs

if TYPE_CHECKING:
    from layerwise.runs.setup import Setup


def patching_evidence(
    result: PatchingResult, signal: Signal, sampling: Sampling
) -> Iterator[MethodCurve | LeftOut]:
    """Share recovered by patching the residual stream where the answer is read.

    That is the last position; in an encoder-decoder the decoder's, which holds nothing while the
    encoder runs. ``resid_pre`` of a layer is what the layers before it have written, so its value
    stands before that layer. After the last layer the whole is recovered by definition, of pairs
    that a model solves by luck, too; so it must solve more of them than it reverses.
    """
    patching, n_encoder = result.patching, result.facts.model.n_encoder_layers
    label, where = ("answer", "answer's") if n_encoder else ("last", "last")
    chosen = patching["site"].eq("resid_pre") & patching["pos_label"].eq(label)
    chosen &= patching["direction"].eq("denoising")
    gains = patching.assign(
        gain=patching["patched_diff"] - patching["corrupted_diff"],
        whole=patching["clean_diff"] - patching["corrupted_diff"],
    )
    solved = signals_of_pairs(patching)
    for _, every in gains.groupby(TASK, sort=True):
        key = task_key(PATCHING, every)
        group = every.loc[chosen.loc[every.index]]
        if group.empty:
            yield LeftOut(*key, f"no resid_pre at the {where} position")
            continue
        wide = group.pivot_table(index="item", columns="layer", values="gain")
        whole = group.groupby("item")["whole"].mean()
        wide = wide.assign(**{str(sampling.n_layers): whole})
        wide = while_the_encoder_runs(wide, n_encoder)
        edges = np.arange(sampling.n_layers + 1)
        why = "the clean and the corrupted run do not differ"
        own_signal = with_own_signal(signal, key, solved[key[3], key[1]] is not False)
        yield progress(PATCHING, group, wide, edges, own_signal, sampling, why, from_first=False)


def _tables(result: PatchingResult, others: Sequence[Result]) -> dict[str, pd.DataFrame]:
    return {"patching_summary": result.summary()}


def _planned_jobs(setup: Setup, options: PlanOptions) -> PlannedJobs:
    from .job import Patching

    return PlannedJobs({"patching": Patching(setup, ("resid_pre",), options["pairs"])})


ANALYSIS = Analysis(
    "patching",
    PatchingResult,
    sections,
    findings,
    tables=_tables,
    files={"patching_summary": "patching.parquet, averaged over pairs"},
    curves=Curves("activation patching", patching_evidence),
    plans=(Planned("patching", _planned_jobs, ("continuation",), paired=True),),
)
