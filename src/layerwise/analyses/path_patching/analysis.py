"""Path patching, as everything across analyses sees it."""

from __future__ import annotations

from layerwise.analyses.contract import Analysis

from .findings import direct_paths
from .report import sections
from .result import PathPatchingResult

ANALYSIS = Analysis("path_patching", PathPatchingResult, sections, direct_paths)
