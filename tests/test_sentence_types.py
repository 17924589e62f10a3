"""Every kind of sentence has a null model and a rate of error that is told and tested."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from layerwise.presentation.claim import Claim

TESTS = Path(__file__).parent
DOCS = TESTS.parent / "docs" / "validity.md"
SECTION = "## Every kind of sentence: how it could be false, and how often it is\n"
# All sentences of a comparison of runs share a row.
OF_COMPARISONS = "no difference"


@pytest.fixture(scope="module")
def table() -> dict[str, list[str]]:
    text = DOCS.read_text("utf-8").split(SECTION)[1].split("\n### ")[0]
    lines = [line for line in text.splitlines() if line.startswith("| ")][1:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {first: rest for first, *rest in cells}


def test_every_kind_of_finding_has_its_row(table: dict[str, list[str]]) -> None:
    said = re.split(r"\bkind:|\bsource:", str(Claim.__doc__))[1]
    kinds = re.findall(r"``([^`]+)``", " ".join(said.split()))
    assert len(kinds) > 15
    assert sorted(table) == sorted([*kinds, OF_COMPARISONS])


def test_kinds_are_those_that_analyses_hand_in() -> None:
    """The list in the docstring is what the code says."""
    said = " ".join(str(Claim.__doc__).split())
    for path in (TESTS.parent / "src" / "layerwise" / "analyses").glob("*/findings*.py"):
        if path.parent.name == "comparison":
            continue
        constants = {
            target.id: node.value.value
            for node in ast.walk(ast.parse(path.read_text("utf-8")))
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        used = {
            node.args[2].id
            for node in ast.walk(ast.parse(path.read_text("utf-8")))
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id == "Claim"
            and isinstance(node.args[2], ast.Name)
        }
        for name in used & set(constants):
            assert f"``{constants[name]}``" in said, path


def test_what_holds_a_row_is_a_test(table: dict[str, list[str]]) -> None:
    every = "\n".join(path.read_text("utf-8") for path in TESTS.rglob("test_*.py"))
    for kind, (*_, held) in table.items():
        names = re.findall(r"`(test_\w+)`", held)
        assert names, kind
        for name in names:
            assert f"def {name}(" in every, name
