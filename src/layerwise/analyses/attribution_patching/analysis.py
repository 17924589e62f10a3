"""Estimated patches: their part of a page, and ``ANALYSIS``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pandas as pd

from layerwise.analyses.contract import Analysis, saved_tables
from layerwise.presentation.columns import cells, heads
from layerwise.presentation.figure_spec import FigureSpec
from layerwise.presentation.rows import rows
from layerwise.presentation.section import Section
from layerwise.presentation.table import Table
from layerwise.presentation.wording import in_order, spread_of
from layerwise.storage.base import Result
from layerwise.storage.run_tables import RunTables

from .columns import AGREEMENT
from .findings import ESTIMATES, estimates_hold
from .result import AttributionPatchingResult

_ESTIMATE_WORDS = (
    "A gradient predicts what every patch would do, at the price of a few forwards. Some patches "
    "were truly made, to see how far that can be trusted."
)


def estimates(run: RunTables) -> list[FigureSpec]:
    """Estimated against true patches, a figure for each direction."""
    from .figures import estimate_agreement

    estimates = run.table("attribution_cells")
    agreement = run.table("attribution_agreement")
    if estimates is None or agreement is None:
        return []
    found = []
    for direction in in_order(agreement["direction"], ()):
        cells, told = (rows(t, direction=direction) for t in (estimates, agreement))
        caption = (
            f"Attribution patching ({direction}): the change of the logit difference that a "
            "gradient predicts for a patch, against that of the true patch, for cells drawn at "
            f"random (means over n = {spread_of(told['n_items'], 'pair')}). Dashed: equal. The "
            "rank correlations' intervals are in the table below."
        )
        alt = "Scatter plots of estimated against true changes, one per task and site."
        draw = partial(estimate_agreement, cells, told)
        found.append(FigureSpec(f"estimates_{direction}", draw, caption, alt))
    return found


def agreement_shown(run: RunTables) -> list[Table]:
    """How gradient estimates agree with true patches."""
    agreement = run.table("attribution_agreement")
    if agreement is None:
        return []
    shown = cells(AGREEMENT, agreement)
    return [Table("Agreement of estimates and true patches", heads(AGREEMENT), shown)]


def sections(run: RunTables) -> list[Section]:
    """Estimated against true patches, and their agreement in numbers."""
    return [
        Section("estimates", "Estimated patches", 44, _ESTIMATE_WORDS,
                tuple(estimates(run)), tuple(agreement_shown(run)), kinds=(ESTIMATES,)),
    ]  # fmt: skip


def _tables(result: AttributionPatchingResult, others: Sequence[Result]) -> dict[str, pd.DataFrame]:
    return saved_tables(result, others) | {"attribution_cells": result.cells()}


ANALYSIS = Analysis(
    "attribution_patching", AttributionPatchingResult, sections, estimates_hold, tables=_tables
)
