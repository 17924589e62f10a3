"""Where capabilities emerge, as everything across analyses sees it."""

from __future__ import annotations

from layerwise.analyses.contract import Analysis

from .findings import findings
from .report import sections
from .result import EmergenceResult

ANALYSIS = Analysis("emergence", EmergenceResult, sections, findings)
