"""Interactions of layers, as everything across analyses sees them."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from layerwise.analyses.contract import Analysis, saved_tables
from layerwise.storage.base import Result

from .findings import SIGNAL, caveats, findings
from .report import sections
from .result import InteractionsResult


def _tables(result: InteractionsResult, others: Sequence[Result]) -> dict[str, pd.DataFrame]:
    return saved_tables(result, others) | {SIGNAL: result.signal()}


ANALYSIS = Analysis(
    "interactions", InteractionsResult, sections, findings, caveats, _tables,
    {SIGNAL: "interactions.parquet, its intact model"},
)  # fmt: skip
