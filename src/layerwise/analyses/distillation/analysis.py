"""Distillations, as everything across analyses sees them."""

from __future__ import annotations

from layerwise.analyses.contract import Analysis

from .findings import findings
from .report import sections
from .result import DistillationResult

ANALYSIS = Analysis("distillation", DistillationResult, sections, findings)
