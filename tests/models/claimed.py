"""Claims of what layers are for, beside what was planted in an organism."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from layerwise.presentation.claim import GAINED, GENERAL, MORE, NEEDED, SPARED
from layerwise.report.html import findings
from layerwise.results import AblationResult


def assert_planted_are_claimed(
    result: AblationResult, planted: Mapping[str, Sequence[int]]
) -> None:
    """Each capability needs its planted layers, more than another does, and no others."""
    found = findings([result])
    for kind in (NEEDED, MORE):
        named = [(c.capabilities[0], tuple(c.layers)) for c in found if c.kind == kind]
        assert sorted(named) == sorted((name, tuple(layers)) for name, layers in planted.items())
    assert not {claim.kind for claim in found} & {GENERAL, SPARED, GAINED}
