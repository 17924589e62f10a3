"""The plain sentences that a run's tables support, most important first.

Each kind of sentence is made in its own file; nothing here reads a file or runs a model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from layerwise.presentation.finding import Finding
from layerwise.presentation.naming import naming_layers_of
from layerwise.report._find_attribution import attributions
from layerwise.report._find_depth import hand_overs, lens_depths, take_ups
from layerwise.report._find_emergence import agreements, interactions
from layerwise.report._find_heads import needed_heads
from layerwise.report._find_layers import critical_layers, gains, harmless_layers
from layerwise.report._find_order import orders, silent
from layerwise.report._find_paths import direct_paths, estimates_hold, similarity_predicts
from layerwise.report._find_protocols import protocol_differences
from layerwise.report._find_removal import removals
from layerwise.report._find_settled import settled_later
from layerwise.report.run import Run
from layerwise.results.base import Result

MOST = 10
CHARACTERS = 300
_FINDERS: tuple[Callable[[Run], list[Finding]], ...] = (
    critical_layers,
    protocol_differences,
    needed_heads,
    interactions,
    harmless_layers,
    gains,
    orders,
    lens_depths,
    agreements,
    settled_later,
    hand_overs,
    take_ups,
    attributions,
    removals,
    direct_paths,
    similarity_predicts,
    estimates_hold,
)


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
    return findings_of(Run.of(results), most)


def findings_of(run: Run, most: int = MOST) -> list[Finding]:
    """As ``findings``, from tables that were gathered before."""
    with naming_layers_of(run.facts.model):
        caveats = silent(run)
        found = [finding for finder in _FINDERS for finding in finder(run)]
    kept = list(caveats)
    for finding in sorted(found, key=_rank):
        if len(kept) < most and _length([*kept, finding]) <= most * CHARACTERS:
            kept.append(finding)
    return sorted(kept, key=_rank)


def _length(found: Sequence[Finding]) -> int:
    return sum(len(finding.sentence) for finding in found)


def _rank(finding: Finding) -> float:
    return -finding.importance
