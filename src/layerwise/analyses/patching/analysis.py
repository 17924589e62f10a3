"""Activation patching: its curves, its part of a page, and ``ANALYSIS``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from layerwise.analyses.contract import Analysis, Curves, Planned, PlannedJobs, PlanOptions
from layerwise.analyses.shared.left_out import words_and_left_out
from layerwise.presentation.claim import PATCHING as KIND
from layerwise.presentation.columns import cells, heads
from layerwise.presentation.naming import stacks
from layerwise.presentation.rows import parts
from layerwise.presentation.section import FigureSpec, Section, Table, others
from layerwise.presentation.wording import joined, spread_of
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
from layerwise.storage.run_tables import RunTables

from .findings import findings
from .result import CELLS, PatchingResult
from .tables import signals_of_pairs

if TYPE_CHECKING:
    from layerwise.runs.setup import Setup


_PATCHING_WORDS = (
    "Two prompts that differ in one thing have different answers. Putting one run's activation "
    "into the other shows which layer and position carry the difference."
)
_MOST = 2000
PATCHES = {
    "denoising": "the clean run's activation is put into the corrupted run",
    "noising": "the corrupted run's activation is put into the clean run",
}


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


def patchings(run: RunTables) -> list[FigureSpec]:
    """Patching heat maps, a figure for each direction and site."""
    patching = run.table("patching_summary")
    if patching is None:
        return []
    return [
        _figure(table, direction, site)
        for (direction, site), table in parts(
            patching, direction=("denoising",), site=("resid_pre",)
        )
    ]


def _figure(table: pd.DataFrame, direction: str, site: str) -> FigureSpec:
    from .figures import patching_heads, patching_map, verb

    by_head, two_stacks = bool(table["head"].notna().all()), stacks().n_encoder > 0
    share, protocols = verb(direction), joined(set(table["protocol"]))
    if by_head:
        every = "of the stack" if two_stacks else "from the first changed token on"
        where = f", at one position or at all {every}"
        grey = "; grey: not patched, or no such head" if two_stacks else ""
        marks = (
            f"{grey}. Dot: differs from 0 by a sign-flip test over pairs, after Benjamini and "
            "Hochberg's correction over all cells of the task (5 %)."
        )
    else:
        where = " at one layer and position"
        marks = (
            ", clipped to −1 to 1. Minus signs mark cells below −0.1, grey what was not patched. "
            "The intervals are in the table below."
        )
    caption = (
        f"Activation patching {'of single heads ' * by_head}at {site}: {PATCHES[direction]}{where} "
        f"({protocols} prompts). {_where(site) if two_stacks else ''}Colour: share of the logit "
        f"difference {share}, over n = {spread_of(table['n_items'], 'pair')} a cell{marks}"
    )
    down = "heads" if by_head else "positions"
    alt = f"Heat maps of the share {share} by patching {site}, layers by {down}."
    draw = partial(patching_heads if by_head else patching_map, table, site, direction=direction)
    other = "" if direction == "denoising" else f"_{direction}"
    return FigureSpec(f"patching_{site}{other}", draw, caption, alt)


def _where(site: str) -> str:
    """Which positions are meant where a model has an encoder and a decoder."""
    if site in ("cross_k", "cross_v"):
        return (
            "Every decoder layer has its own, made of the encoder's output at the prompt's "
            "positions. "
        )
    return (
        "The encoder is patched at the prompt's positions, the decoder at what it begins with; "
        "answer: the position where the answer's first token is predicted. "
    )


def patching_table(run: RunTables) -> list[Table]:
    """The patched cells that recover most, and all of them on demand."""
    patching = run.table("patching_summary")
    if patching is None:
        return []
    ranked = patching.sort_values(by="recovered", ascending=False, kind="stable")
    shown = cells(CELLS, ranked.head(_MOST))
    note = others(len(ranked), len(shown), "rows follow from patching.parquet")
    return [Table(f"Patched cells by share ({len(ranked)})", heads(CELLS), shown, True, note)]


def sections(run: RunTables) -> list[Section]:
    """Heat maps, and the cells in numbers."""
    return [
        Section("patching", "Activation patching", 40,
                words_and_left_out(_PATCHING_WORDS, run.facts, "activation patching"),
                tuple(patchings(run)), tuple(patching_table(run)), kinds=(KIND,)),
    ]  # fmt: skip


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
