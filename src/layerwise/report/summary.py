"""The plain sentences that a run's tables support, most important first.

Each analysis makes its own; nothing here reads a file or runs a model.
"""

from __future__ import annotations

from collections.abc import Sequence

from layerwise.analyses.registry import ANALYSES, tables_of_run
from layerwise.presentation.claim import ROLES, Claim, ranked
from layerwise.presentation.naming import naming_layers_of
from layerwise.storage.base import Result
from layerwise.storage.run_tables import RunTables

MOST = 10
CHARACTERS = 400


def findings(results: Sequence[Result], most: int = MOST) -> list[Claim]:
    """What the results of one run say.

    Args:
        results: results of one run, at most one of each kind but for ablations.
        most: of what is not about what layers are for, at most so many claims, and no more text
            than so many of ``CHARACTERS``.

    Returns:
        Claims in the order in which a reader is to meet them. None says more than its test. What
        layers are for, and which tasks have no signal, is never cut off.

    Raises:
        UserError: if the results are of different models or items.
    """
    return findings_of(tables_of_run(results), most)


def findings_of(run: RunTables, most: int = MOST) -> list[Claim]:
    """As ``findings``, from tables that were gathered before."""
    with naming_layers_of(run.facts.model):
        caveats = [claim for analysis in ANALYSES for claim in analysis.caveats(run)]
        findings = [claim for analysis in ANALYSES for claim in analysis.findings(run)]
    kept = [*caveats, *(claim for claim in findings if claim.kind in ROLES)]
    others: list[Claim] = []
    most -= bool(caveats)  # they take the room of one
    for claim in sorted(findings, key=lambda claim: -claim.importance):
        fits = len(others) < most and _length([*others, claim]) <= most * CHARACTERS
        if claim.kind not in ROLES and fits:
            others.append(claim)
    return ranked([*kept, *others])


def _length(claims: Sequence[Claim]) -> int:
    return sum(len(claim.short) for claim in claims)
