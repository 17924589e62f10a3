"""Direct logit attribution, as everything across analyses sees it."""

from __future__ import annotations

from layerwise.analyses.contract import Analysis, Curves

from .curves import attribution_evidence
from .findings import attributions
from .report import sections
from .result import AttributionResult

ANALYSIS = Analysis(
    "attribution",
    AttributionResult,
    sections,
    attributions,
    curves=Curves("attribution", attribution_evidence),
)
