"""The removal of layers, as everything across analyses sees it."""

from __future__ import annotations

from layerwise.analyses.contract import Analysis

from .findings import removals
from .report import sections
from .result import RemovalResult

ANALYSIS = Analysis("removal", RemovalResult, sections, removals)
