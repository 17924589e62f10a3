"""Changing layers, heads, blocks and sets, as everything across analyses sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from layerwise.analyses.contract import Analysis, Curves, saved_tables
from layerwise.storage.base import Result
from layerwise.storage.written import REQUESTS_FILE

from .curves import ablation_evidence, signal_by_task
from .findings import findings
from .findings_signal import silent
from .questions import QUESTIONS
from .report import sections
from .result import AblationResult


def _tables(result: AblationResult, others: Sequence[Result]) -> Mapping[str, pd.DataFrame]:
    """The saved tables, and what was asked where that is known."""
    asked = {} if result.questions is None else {QUESTIONS: result.questions()}
    return saved_tables(result, others) | asked


ANALYSIS = Analysis(
    "ablation",
    AblationResult,
    sections,
    findings,
    caveats=silent,
    tables=_tables,
    files={QUESTIONS: REQUESTS_FILE},
    curves=Curves("ablation", ablation_evidence, signal_by_task),
)
