"""Direct paths: claims, part of a page, and its declaration ``ANALYSIS``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pandas as pd

from layerwise.analyses.contract import Analysis, Extra, Job, ProfileStart
from layerwise.analyses.patching.analysis import PATCHES
from layerwise.analyses.shared.left_out import words_with_exclusions
from layerwise.presentation.claim import Claim, Estimate, source, weight
from layerwise.presentation.columns import as_text
from layerwise.presentation.naming import stacks
from layerwise.presentation.over_run import RATE, run_bounds_text, run_wide_evidence
from layerwise.presentation.rows import claim_scope, numbers, records, rows
from layerwise.presentation.section import FigureSpec, Section
from layerwise.presentation.wording import count_range, in_order, number, protocol_phrase
from layerwise.storage.base import Result
from layerwise.storage.run_tables import RunTables

from .result import PATHS, PathPatchingResult

KIND = "paths"
_ACTIONS = {"noising": "takes away", "denoising": "brings back"}
_PATH_WORDS = (
    "Which heads and MLPs act directly on a receiver? What one of them writes is taken from the "
    "other run, and only the receiver gets it."
)


def direct_paths(run: RunTables) -> list[Claim]:
    """The component that acts most on the logits, or on another receiver, on its own."""
    paths = run.table("path_effects")
    if paths is None:
        return []
    sure = pd.DataFrame(rows(paths, significant=True).query("recovered > 0"))
    if sure.empty:
        return []
    row = records(sure.sort_values(by="recovered", ascending=False, kind="stable"))[0]
    keys = ("task", "protocol", "direction", "receiver")
    where = {name: str(row[name]) for name in keys}
    receiver = "the logits" if row["receiver"] == "logits" else f"receiver {row['receiver']}"
    names = ("recovered", "recovered_run_low", "recovered_run_high")
    value, low, high = (100 * float(row[name]) for name in names)
    within = ("p_bh", f"over the senders ({RATE})")
    return [Claim(
        kind=KIND, importance=weight(0.5, float(row["recovered"])),
        short=f"On {row['task']}, {row['sender']} acts most directly on {receiver} "
        f"{protocol_phrase(row['protocol'])}: its path {_ACTIONS[row['direction']]} "
f"{number(value)} % of the "
        "logit difference.",
        source=source("path_effects", where, sender=str(row["sender"])),
        layers=(int(row["layer"]),) if row["layer"] >= 0 else (),
        estimate=Estimate(value, low, high, "% of the logit difference", run_bounds_text(paths)),
        details=("Only this path was patched.",), **claim_scope(pd.DataFrame([row]), "pair"),
        **run_wide_evidence(row, paths, "sign flips of pairs", within, RATE),
    )]  # fmt: skip


def sections(run: RunTables) -> list[Section]:
    """Direct paths by layer and head, a figure for each direction, and by what they carry."""
    from layerwise.analyses.patching.figures import verb

    from .figures import path_senders

    paths = run.table("path_effects")
    if paths is None:
        return []
    figures, cross = [], " c0, c1, ...: heads of cross-attention." * bool(stacks().n_encoder)
    table = paths.loc[paths["layer"] >= 0]  # embeddings are in the table only
    for direction in in_order(table["direction"], ()):
        own = rows(table, direction=direction)
        caption = (
            f"Path patching: {PATCHES[direction]} at one head or MLP, and reaches one receiver "
            "only, on the direct path; all else is held. Colour: share of the logit difference "
            f"{verb(direction)}, over n = {count_range(own['n_items'], 'pair')}. Dot: differs from "
            "0 by a sign-flip test over pairs, after Benjamini and Hochberg's correction over the "
            f"senders of the receiver (5 %). Grey: not heard by the receiver, or not there.{cross} "
            "The intervals are in the table."
        )
        alt = "Heat maps of what each head and MLP carries to a receiver."
        figures.append(FigureSpec(f"paths_{direction}", partial(path_senders, own), caption, alt))
    ranked = paths.iloc[(-abs(numbers(paths, "recovered"))).argsort(kind="stable")]
    where = "rows are in path_effects (estimates.parquet)"
    listed = as_text("Direct paths by share ({n})", PATHS, ranked, where=where)
    words = words_with_exclusions(_PATH_WORDS, run.facts, "path patching")
    return [
        Section("paths", "Direct paths", 42, words, tuple(figures), (listed,), kinds=(KIND,)),
    ]  # fmt: skip


def _refuse_post_norms(cfg: Any) -> None:
    """Refuse a model in which what a head adds to the stream is no term of a sum."""
    from .api import refuse_post_norms

    refuse_post_norms(cfg)


def _jobs_of_a_profile(start: ProfileStart) -> Iterator[Job[Result]]:
    from layerwise.analyses.patching.tables import DENOISING

    from .api import PathPatching

    paired = replace(start.able, protocols=("continuation",))
    yield PathPatching(paired, start.pairs, ("logits",), DENOISING, strict=False)


_INTO = "path patching into the logits"
ANALYSIS = Analysis(
    "path_patching", PathPatchingResult, sections, direct_paths,
    extras=(Extra("paths", _INTO, _jobs_of_a_profile, refuse=_refuse_post_norms),),
    done={
        "path_effects": "Direct paths between components were patched one by one.",
    },
)  # fmt: skip
