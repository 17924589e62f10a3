"""Activation patching, as everything across analyses sees it."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from layerwise.analyses.contract import Analysis, Curves
from layerwise.storage.base import Result

from .curves import patching_evidence
from .findings import findings
from .report import sections
from .result import PatchingResult


def _tables(result: PatchingResult, others: Sequence[Result]) -> dict[str, pd.DataFrame]:
    return {"patching_summary": result.summary()}


ANALYSIS = Analysis(
    "patching",
    PatchingResult,
    sections,
    findings,
    tables=_tables,
    files={"patching_summary": "patching.parquet, averaged over pairs"},
    curves=Curves("activation patching", patching_evidence),
)
