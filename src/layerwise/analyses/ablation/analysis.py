"""Changing layers, heads, blocks and sets, as everything across analyses sees it."""

from __future__ import annotations

from layerwise.analyses.contract import Analysis, Curves

from .curves import ablation_evidence, signal_by_task
from .findings import findings
from .findings_signal import silent
from .report import sections
from .result import AblationResult

ANALYSIS = Analysis(
    "ablation",
    AblationResult,
    sections,
    findings,
    caveats=silent,
    curves=Curves("ablation", ablation_evidence, signal_by_task),
)
