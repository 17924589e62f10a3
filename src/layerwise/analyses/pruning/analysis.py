"""A pruned model's part of the page, and its declaration ``ANALYSIS``."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from layerwise.analyses.contract import Analysis
from layerwise.presentation.columns import run_table_as_text
from layerwise.presentation.section import Section
from layerwise.storage.base import Result
from layerwise.storage.run_tables import RunTables

from .result import WRITTEN, PruningResult

_PRUNED_WORDS = (
    "A model was written without some layers and loaded again. It answers the same questions as "
    "the intact model, and as the intact model that skips these layers. The last two must agree."
)


def sections(run: RunTables) -> list[Section]:
    """A written model beside what was predicted of it."""
    title = "Written model, and prediction by skipping its layers"
    tables = run_table_as_text(run, "pruning_summary", title, WRITTEN, collapsed=False)
    return [Section("pruned", "Written without layers", 80, _PRUNED_WORDS, (), tuple(tables))]


def _tables(result: PruningResult, others: Sequence[Result]) -> dict[str, pd.DataFrame]:
    return {"pruning_summary": result.summary()}


ANALYSIS = Analysis("pruning", PruningResult, sections, tables=_tables)
