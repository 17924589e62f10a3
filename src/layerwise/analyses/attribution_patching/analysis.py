"""Estimated patches: claims, part of a page, and its declaration ``ANALYSIS``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd

from layerwise.analyses.contract import Analysis, Extra, Job, ProfileStart, saved_tables
from layerwise.analyses.shared.left_out import words_with_exclusions
from layerwise.presentation.claim import (
    IN_TABLE,
    OPEN,
    Claim,
    Estimate,
    most_important,
    source,
    weight,
)
from layerwise.presentation.columns import as_text
from layerwise.presentation.rows import claim_scope, numbers, parts, records, rows
from layerwise.presentation.section import FigureSpec, Section
from layerwise.presentation.wording import count_noun, count_range, in_order
from layerwise.stats.effects import ALPHA
from layerwise.storage.base import Result
from layerwise.storage.run_tables import RunTables

from .result import AGREEMENT, AttributionPatchingResult

ESTIMATES = "estimates"
_ESTIMATE_WORDS = (
    "A gradient predicts what every patch would do, at the price of a few forwards. Some patches "
    "were truly made, to see how far that can be trusted."
)


def estimates_hold(run: RunTables) -> list[Claim]:
    """In how many tasks gradient estimates rank patches as true patches do, and how well."""
    agreement = run.table("attribution_agreement")
    if agreement is None:
        return []
    known = agreement.loc[~agreement["signal"].eq(False).fillna(False)]
    known = pd.DataFrame(known.dropna(subset=["spearman_low"]))
    return most_important(
        [_agreement(cells, *where) for where, cells in parts(known, direction=(), site=())], 1
    )


def _agreement(known: pd.DataFrame, direction: str, site: str) -> Claim:
    # where pairs and cells both say so
    sure = (numbers(known, "spearman_low") > 0) & (numbers(known, "spearman_p_holm") < ALPHA)
    n_sure = int(sure.sum())
    least = records(known)[int(np.argmin(numbers(known, "spearman")))]
    value, low, high = (float(least[f"spearman{end}"]) for end in ("", "_low", "_high"))
    family = ", corrected by Holm over the tasks" if len(known) > 1 else ""
    unit = f"rank correlation over cells on {least['task']}, the lowest"
    where = {"direction": direction, "site": site}
    return Claim(
        kind=ESTIMATES, evidence=IN_TABLE if n_sure else OPEN, importance=weight(0.35, value),
        short=f"Gradients rank patches of {site} as true patches do in {n_sure} of "
        f"{count_noun(len(known), 'task')}.",
        estimate=Estimate(value, low, high, unit, digits=2),
        details=(f"They agree beyond chance there{family}; direction: {direction}.",),
        source=source("attribution_agreement", where, task=str(least["task"])),
        **claim_scope(known, "pair"),
    )  # fmt: skip


def sections(run: RunTables) -> list[Section]:
    """Estimated against true patches, a figure for each direction, and their agreement."""
    from .figures import estimate_agreement

    estimates, agreement = run.table("attribution_cells"), run.table("attribution_agreement")
    if estimates is None or agreement is None:
        return []
    figures = []
    for direction in in_order(agreement["direction"], ()):
        estimated, agreed = (rows(t, direction=direction) for t in (estimates, agreement))
        caption = (
            f"Attribution patching ({direction}): the change of the logit difference that a "
            "gradient predicts for a patch, against that of the true patch, for cells drawn at "
            f"random (means over n = {count_range(agreed['n_items'], 'pair')}). Dashed: equal. The "
            "rank correlations' intervals are in the table."
        )
        alt = "Scatter plots of estimated against true changes, one per task and site."
        draw = partial(estimate_agreement, estimated, agreed)
        figures.append(FigureSpec(f"estimates_{direction}", draw, caption, alt))
    title = "Agreement of estimates and true patches"
    table = as_text(title, AGREEMENT, agreement, collapsed=False)
    words = words_with_exclusions(_ESTIMATE_WORDS, run.facts, "attribution patching")
    return [
        Section("estimates", "Estimated patches", 44, words, tuple(figures), (table,),
                kinds=(ESTIMATES,)),
    ]  # fmt: skip


def _jobs_of_a_profile(start: ProfileStart) -> Iterator[Job[Result]]:
    from .api import AttributionPatching, head_sites

    paired = replace(start.able, protocols=("continuation",))
    sites = head_sites(start.able.model)
    yield AttributionPatching(paired, start.pairs, sites, strict=False)


ANALYSIS = Analysis(
    "attribution_patching", AttributionPatchingResult, sections, estimates_hold,
    tables=lambda result, others: saved_tables(result, others)
    | {"attribution_cells": result.cells()},
    extras=(
        Extra("estimates", "attribution patching, with a sample truly patched", _jobs_of_a_profile),
    ),
    done={
        "attribution_agreement": "Patches were also estimated by gradients.",
    },
)  # fmt: skip
