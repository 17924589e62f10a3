"""Claims that the studies quote are those that the package makes of the studies' saved tables."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from analyses.organism_training import plan as decoder
from analyses.organism_training.seq2seq import plan as seq2seq
from layerwise.analyses.loading import load_results
from layerwise.presentation.claim import (
    GAINED,
    GENERAL,
    LENS,
    MORE,
    NEEDED,
    ORDER,
    PATCHING,
    ROLES,
    SPARED,
)
from layerwise.report.html import findings

STUDIES = Path(__file__).parents[2] / "analyses"
SAVED = sorted(STUDIES.rglob("claims.json"))
PLANTED = {"organism-decoder": decoder, "organism-seq2seq": seq2seq}
QUOTED = r"^- (.+) \((established|in its table|not established)\)$"


def claimed(path: Path) -> list[dict[str, Any]]:
    """The claims of a file."""
    return json.loads(path.read_text("utf-8"))


@pytest.mark.parametrize("study", sorted({path.relative_to(STUDIES).parts[0] for path in SAVED}))
def test_quoted_claims_are_saved_ones(study):
    page = (STUDIES / study / "README.md").read_text("utf-8")
    quoted = re.findall(QUOTED, page, flags=re.MULTILINE)
    files = (STUDIES / study).rglob("claims.json")
    saved = [(claim["short"], claim["evidence"]) for path in files for claim in claimed(path)]
    assert quoted
    assert [pair for pair in quoted if pair not in saved] == []


@pytest.mark.slow
@pytest.mark.parametrize("path", [path for path in SAVED if (path.parent / "run.json").exists()])
def test_saved_claims_of_roles_are_made_again_from_the_tables(path):
    """The same layers of the same capabilities, as surely; words and examples may be others."""
    again = [claim.record() for claim in findings(load_results(path.parent))]
    about = [
        [
            (one["kind"], one["evidence"], *one["capabilities"], *one["layers"])
            for one in claims if one["kind"] in ROLES
        ]
        for claims in (again, claimed(path))
    ]  # fmt: skip
    assert sorted(about[0]) == sorted(about[1])


@pytest.fixture(params=PLANTED)
def organism(request):
    """An organism's planted layers by capability, and its saved claims by kind."""
    path = STUDIES / "organism" / "results" / "claimed" / request.param / "claims.json"
    found: dict[str, list[dict[str, Any]]] = {}
    for claim in claimed(path):
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
        assert layer in planted[capability]
