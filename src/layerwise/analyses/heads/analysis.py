"""Scores of heads on repeated tokens, as everything across analyses sees it."""

from __future__ import annotations

from layerwise.analyses.contract import Analysis

from .report import sections
from .result import HeadsResult

ANALYSIS = Analysis("heads", HeadsResult, sections)
