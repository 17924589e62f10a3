"""Direct logit attribution, as everything across analyses sees it."""

from __future__ import annotations

from layerwise.analyses.contract import Analysis

from .findings import attributions
from .report import sections
from .result import AttributionResult

ANALYSIS = Analysis("attribution", AttributionResult, sections, attributions)
