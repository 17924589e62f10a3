"""Claims that the studies quote are those that the package makes of the studies' saved tables."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from layerwise.analyses.loading import load_results
from layerwise.report.summary import findings

STUDIES = Path(__file__).parents[2] / "analyses"
SAVED = sorted(STUDIES.rglob("claims.json"))
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
