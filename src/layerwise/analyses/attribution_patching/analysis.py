"""Attribution patching, as everything across analyses sees it."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from layerwise.analyses.contract import Analysis, saved_tables
from layerwise.storage.base import Result

from .findings import estimates_hold
from .report import sections
from .result import AttributionPatchingResult


def _tables(result: AttributionPatchingResult, others: Sequence[Result]) -> dict[str, pd.DataFrame]:
    return saved_tables(result, others) | {"attribution_cells": result.cells()}


ANALYSIS = Analysis(
    "attribution_patching", AttributionPatchingResult, sections, estimates_hold, tables=_tables
)
