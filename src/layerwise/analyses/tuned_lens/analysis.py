"""The training of a tuned lens, as everything across analyses sees it."""

from __future__ import annotations

from layerwise.analyses.contract import Analysis

from .report import sections
from .result import TunedLensResult

ANALYSIS = Analysis("tuned_lens", TunedLensResult, sections)
