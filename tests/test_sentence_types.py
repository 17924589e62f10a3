"""Every kind of sentence has a null model and a rate of error that is told and tested."""

from __future__ import annotations

import ast
import re
from importlib import import_module
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
DOCS = TESTS.parent / "docs" / "evidence" / "every_sentence.md"
SECTION = "# Every kind of sentence: how it could be false, and how often it is\n"
# All sentences of a comparison of runs share a row.
OF_COMPARISONS = "no difference"


@pytest.fixture(scope="module")
def table() -> dict[str, list[str]]:
    text = DOCS.read_text("utf-8").split(SECTION)[1].split("\n### ")[0]
    lines = [line for line in text.splitlines() if line.startswith("| ")][1:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {first: rest for first, *rest in cells}


def kinds() -> set[str]:
    """The kinds of claims that analyses make, but for comparisons."""
    source, named = TESTS.parent / "src", set()
    for path in (source / "layerwise" / "analyses").rglob("*.py"):
        constants = {node.id for call in ast.walk(ast.parse(path.read_text("utf-8")))
                     for node in _claim_kinds(call) if isinstance(node, ast.Name)}  # fmt: skip
        if "comparison" not in path.parts and constants:
            module = import_module(".".join(path.relative_to(source).with_suffix("").parts))
            named |= {getattr(module, name) for name in constants if name.isupper()}
    return named


def _claim_kinds(node: ast.AST) -> list[ast.expr]:
    """Kinds of claims that an expression gives."""
    if isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        return [value for key, value in pairs if getattr(key, "value", None) == "kind"]
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Claim":
        return [one.value for one in node.keywords if one.arg == "kind"]
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "_common":
        return node.args[1:2]
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "layers_claim":
        return node.args[:1]
    if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "kind":
        return [one for one in ast.walk(node.value) if isinstance(one, ast.Name)]
    return []


def test_every_kind_of_claim_has_its_row(table: dict[str, list[str]]) -> None:
    """A row names its kinds, and after a colon which claims of a kind it is about."""
    made, rows = kinds(), [set(re.split(", |: ", row)) for row in table if row != OF_COMPARISONS]
    assert len(made) > 15
    assert made <= set.union(*rows)
    assert all(row & made for row in rows)


def test_what_holds_a_row_is_a_test(table: dict[str, list[str]]) -> None:
    every = "\n".join(path.read_text("utf-8") for path in TESTS.rglob("test_*.py"))
    for kind, (*_, held) in table.items():
        names = re.findall(r"`(test_\w+)`", held)
        assert names, kind
        for name in names:
            assert f"def {name}(" in every, name
