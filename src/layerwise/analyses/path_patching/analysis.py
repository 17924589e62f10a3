"""Path patching, as everything across analyses sees it."""

from __future__ import annotations

from layerwise.analyses.contract import Analysis

from .findings import findings
from .report import sections
from .result import PathPatchingResult

ANALYSIS = Analysis("path_patching", PathPatchingResult, sections, findings)
