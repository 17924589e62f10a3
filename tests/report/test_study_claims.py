"""Claims that the studies quote are those that the package makes of the studies' saved tables."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from layerwise.analyses.loading import load_results
from layerwise.organisms import plan as decoder
from layerwise.organisms.seq2seq import plan as seq2seq
from layerwise.presentation.claim import (
    GAINED,
    GENERAL,
    LENS,
    MORE,
    NEEDED,
    ORDER,
    PATCHING,
    SPARED,
)
from layerwise.report.summary import findings

STUDIES = Path(__file__).parents[2] / "analyses"
SAVED = sorted(STUDIES.rglob("claims.json"))
PLANTED = {"organism-decoder": decoder, "organism-seq2seq": seq2seq}
QUOTED = r"^- (.+) \((established|in its table|not established)\)$"


def claimed(path: Path) -> list[tuple[str, str]]:
    """Short forms of a file of claims, with their evidence."""
    return [(claim["short"], claim["evidence"]) for claim in json.loads(path.read_text("utf-8"))]


@pytest.mark.parametrize("study", sorted({path.relative_to(STUDIES).parts[0] for path in SAVED}))
def test_quoted_claims_are_saved_ones(study):
    page = (STUDIES / study / "README.md").read_text("utf-8")
    quoted = re.findall(QUOTED, page, flags=re.MULTILINE)
    saved = [pair for path in (STUDIES / study).rglob("claims.json") for pair in claimed(path)]
    assert quoted
    assert [pair for pair in quoted if pair not in saved] == []


@pytest.mark.slow
@pytest.mark.parametrize("path", [path for path in SAVED if (path.parent / "run.json").exists()])
def test_saved_claims_are_made_again_from_the_tables(path):
    again = [(claim.short, claim.evidence) for claim in findings(load_results(path.parent))]
    assert again == claimed(path)


@pytest.fixture(params=PLANTED)
def organism(request):
    """An organism's planted layers by capability, and its saved claims by kind."""
    path = STUDIES / "organism" / "results" / "claimed" / request.param / "claims.json"
    found: dict[str, list[dict[str, Any]]] = {}
    for claim in json.loads(path.read_text("utf-8")):
        found.setdefault(claim["kind"], []).append(claim)
    return PLANTED[request.param].PLANTED, found


@pytest.mark.parametrize("kind", [NEEDED, MORE])
def test_claims_name_the_planted_layers_and_no_others(organism, kind):
    planted, found = organism
    named = {claim["capabilities"][0]: set(claim["layers"]) for claim in found[kind]}
    assert len(named) == len(found[kind])
    assert named == {capability: set(layers) for capability, layers in planted.items()}


def test_nothing_is_claimed_that_was_not_planted(organism):
    planted, found = organism
    assert not {GENERAL, SPARED, GAINED} & found.keys()
    for claim in found[ORDER] + [one for one in found[LENS] if len(one["capabilities"]) == 2]:
        first, later = claim["capabilities"]
        if claim["kind"] == LENS:  # "settles later than"
            first, later = later, first
        assert min(planted[first]) < min(planted[later])
        assert max(planted[first]) <= max(planted[later])
    for claim in found[PATCHING]:
        (capability,), (layer,) = claim["capabilities"], claim["layers"]
        read_before = "from layer" in claim["short"]  # what layers behind the planted one read
        assert layer - read_before in planted[capability]
