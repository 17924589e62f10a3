"""The plain sentences that a run's tables support, most important first.

Each analysis makes its own; nothing here reads a file or runs a model.
"""

from __future__ import annotations

from collections.abc import Sequence

from layerwise.analyses.gathering import tables_of_run
from layerwise.analyses.registry import ANALYSES
from layerwise.presentation.finding import Finding
from layerwise.presentation.naming import naming_layers_of
from layerwise.storage.base import Result
from layerwise.storage.run_tables import RunTables

MOST = 10
CHARACTERS = 400


def findings(results: Sequence[Result], most: int = MOST) -> list[Finding]:
    """What the results of one run say, in sentences.

    Args:
        results: results of one run, at most one of each kind but for ablations.
        most: at most so many sentences, and no more text than so many of ``CHARACTERS``:
            ten are a screenful.

    Returns:
        Findings by falling importance. None claims more than its test: losses are called
        significant after Holm's correction only, and of tasks without signal it is only said
        that they have none; that sentence is never cut off.

    Raises:
        UserError: if the results are of different models or items.
    """
    return findings_of(tables_of_run(results), most)


def findings_of(run: RunTables, most: int = MOST) -> list[Finding]:
    """As ``findings``, from tables that were gathered before."""
    with naming_layers_of(run.facts.model):
        caveats = [finding for analysis in ANALYSES for finding in analysis.caveats(run)]
        found = [finding for analysis in ANALYSES for finding in analysis.findings(run)]
    kept = list(caveats)
    for finding in sorted(found, key=_rank):
        if len(kept) < most and _length([*kept, finding]) <= most * CHARACTERS:
            kept.append(finding)
    return sorted(kept, key=_rank)


def _length(found: Sequence[Finding]) -> int:
    return sum(len(finding.sentence) for finding in found)


def _rank(finding: Finding) -> float:
    return -finding.importance
