"""Transplants, as everything across analyses sees them."""

from __future__ import annotations

from layerwise.analyses.contract import Analysis

from .findings import caveats, findings
from .report import sections
from .result import TransplantResult

ANALYSIS = Analysis("transplant", TransplantResult, sections, findings, caveats)
