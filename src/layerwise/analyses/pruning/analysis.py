"""Writing a model without some layers, as everything across analyses sees it."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from layerwise.analyses.contract import Analysis
from layerwise.storage.base import Result

from .report import sections
from .result import PruningResult


def _tables(result: PruningResult, others: Sequence[Result]) -> dict[str, pd.DataFrame]:
    return {"pruning_summary": result.summary()}


ANALYSIS = Analysis("pruning", PruningResult, sections, tables=_tables)
