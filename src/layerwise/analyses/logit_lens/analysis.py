"""The logit lens, as everything across analyses sees it."""

from __future__ import annotations

from layerwise.analyses.contract import Analysis, Curves

from .curves import lens_evidence
from .findings import settled_later
from .report import sections
from .result import LensResult

ANALYSIS = Analysis(
    "logit_lens", LensResult, sections, settled_later, curves=Curves("logit lens", lens_evidence)
)
