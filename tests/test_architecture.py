"""The walls of the house: what each folder may import, and that nothing imports in a circle."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import layerwise
from layerwise.ground.analysis_folders import JOINING, MEASURING, OWN

ROOT = Path(layerwise.__file__).parent

# From the ground up: a folder imports what stands before it.
ORDER = (
    "errors", "ground", "storage", "stats", "models", "sweep", "tasks", "runs",
    "presentation", "analyses", "results", "report", "prompts", "lm_eval", "profiling", "planning",
    "cli",
)  # fmt: skip
# The same within a package: its folders, and modules beside them, from the ground up.
ORDER_WITHIN = {
    "models": (
        "files", "libraries", "weights", "decoder", "seq2seq", "instance", "huggingface",
        "conversion", "names", "organisms", "load", "meta_model", "own_files", "arguments",
    ),
    "stats": (
        "resampling", "inference", "items", "cells", "families", "signals", "pools", "share_tests",
        "depth", "contrasts", "crossings", "effects", "capability_layers", "sequential",
    ),
}  # fmt: skip
# Pictures, sentences and pages are made of tables alone.
READS_TABLES_ONLY = ("presentation", "report")
RUNS_MODELS = ("models", "sweep", "tasks", "runs")
HEAVY = ("torch", "transformers", "transformer_lens", "matplotlib", "seaborn", "scipy")


def modules() -> dict[str, Path]:
    named = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = ("layerwise", *path.relative_to(ROOT).with_suffix("").parts)
        named[".".join(parts).removesuffix(".__init__")] = path
    return named


MODULES = modules()


# What is imported by names from a list.
LOADED = {
    f"layerwise.analyses.{module}": [f"layerwise.analyses.{name}.analysis" for name in names]
    for module, names in (("measurements", MEASURING), ("registry", JOINING))
}


def imported_modules(name: str) -> Iterator[str]:
    """The package's modules that one imports, also within functions and for types alone."""
    yield from LOADED.get(name, ())
    path = MODULES[name]
    tree = ast.parse(path.read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (one.name for one in node.names if one.name in MODULES)
        elif isinstance(node, ast.ImportFrom):
            base = absolute(node, name, path)
            for one in node.names:
                inner = f"{base}.{one.name}"
                yield from (
                    found for found in (inner if inner in MODULES else base,) if found in MODULES
                )


def absolute(node: ast.ImportFrom, name: str, path: Path) -> str:
    if not node.level:
        return node.module or ""
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    within = package[: len(package) - node.level + 1]
    return ".".join([*within, *([node.module] if node.module else [])])


def folder(name: str) -> str:
    """Place of a module in ``ORDER``."""
    parts = name.split(".")[1:]
    return parts[0] if parts else ""


@cache
def imports() -> dict[str, list[str]]:
    return {name: sorted(set(imported_modules(name)) - {name}) for name in MODULES}


def test_the_root_holds_folders_and_the_ground_alone():
    files = {path.name for path in ROOT.iterdir() if path.is_file()}
    assert files == {"__init__.py", "errors.py", "py.typed"}


def test_no_arrow_runs_back_up():
    wrong = [
        f"{name} imports {other}"
        for name, others in imports().items()
        for other in others
        if name != "layerwise" and ORDER.index(folder(name)) < ORDER.index(folder(other))
    ]
    assert not wrong


def folder_rank(package: str, name: str) -> int:
    """Number of a module's folder in its package's order; the package's names stand on top."""
    order = (*ORDER_WITHIN[package], "")
    return order.index(".".join(name.split(".")[2:3]))


@pytest.mark.parametrize("package", ORDER_WITHIN)
def test_no_arrow_runs_back_up_within_a_package(package):
    wrong = [
        f"{name} imports {other}"
        for name, others in imports().items()
        for other in (*others, *named_in_calls(name))
        if folder(name) == folder(other) == package
        and folder_rank(package, name) < folder_rank(package, other)
    ]
    assert not wrong


@pytest.mark.parametrize("package", ORDER_WITHIN)
def test_order_within_a_package_names_what_is_there(package):
    there = {name.split(".")[2] for name in MODULES if name.startswith(f"layerwise.{package}.")}
    assert there == set(ORDER_WITHIN[package])


@cache
def named_in_calls(name: str) -> tuple[str, ...]:
    """Modules that one imports by a text, which ``imported_modules`` does not see."""
    return tuple(_named_in_calls(name))


def _named_in_calls(name: str) -> Iterator[str]:
    if "import_module" not in MODULES[name].read_text("utf-8"):
        return
    for node in ast.walk(ast.parse(MODULES[name].read_text("utf-8"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            texts = [one.value for one in node.args if isinstance(one, ast.Constant)]
            yield from (text for text in texts if text in MODULES)


def test_nothing_reaches_up_by_name():
    wrong = {
        (name, other)
        for name in MODULES
        for other in named_in_calls(name)
        if ORDER.index(folder(name)) < ORDER.index(folder(other))
    }
    assert not wrong


def test_pages_are_made_without_running_a_model():
    wrong = [
        f"{name} imports {other}"
        for name, others in imports().items()
        for other in others
        if folder(name) in READS_TABLES_ONLY and folder(other) in RUNS_MODELS
    ]
    assert not wrong


def test_importing_the_report_loads_nothing_heavy():
    code = f"import sys, layerwise.report; print([m for m in {HEAVY} if m in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"


def circle(start: str) -> list[str] | None:
    """A way from a module back to itself, if there is one."""
    ways: list[list[str]] = [[start]]
    seen: set[str] = set()
    while ways:
        way = ways.pop()
        for other in imports()[way[-1]]:
            if other == start:
                return [*way, other]
            if other not in seen:
                seen.add(other)
                ways.append([*way, other])
    return None


def test_no_module_imports_itself_by_a_circle():
    assert [found for found in map(circle, MODULES) if found is not None] == []


ANALYSES = sorted({name.split(".")[2] for name in MODULES if name.count(".") > 2
                   and folder(name) == "analyses"})  # fmt: skip


@pytest.mark.parametrize("package", ["analyses", *(f"analyses.{one}" for one in ANALYSES)])
def test_no_parts_of_a_folder_import_each_other_in_a_circle(package):
    """Modules without a circle can stand in folders that have one."""
    start = f"layerwise.{package}."
    parts: dict[str, set[str]] = {}
    for name, others in imports().items():
        if name.startswith(start):
            reached = (other.removeprefix(start) for other in others if other.startswith(start))
            part = name.removeprefix(start).split(".")[0]
            parts.setdefault(part, set()).update(other.split(".")[0] for other in reached)
    assert parts
    left = {part: others - {part} for part, others in parts.items()}
    while ready := [part for part, others in left.items() if not others & left.keys()]:
        left = {part: others for part, others in left.items() if part not in ready}
    assert not left


def imported_analyses(start: str) -> set[str]:
    """The analyses whose modules are imported by those of a name that begins so."""
    every = {
        other.split(".")[2]
        for name, others in imports().items()
        if name.startswith(start)
        for other in others
        if other.startswith("layerwise.analyses.") and other.count(".") > 2
    }
    return every - {start.split(".")[2] if start.startswith("layerwise.analyses.") else ""}


# What an analysis is built on beside what is shared: its records are theirs, or it joins theirs.
COMPOSED = {
    "attribution_patching": {"patching"},  # a sample is truly patched
    "comparison": {"ablation", "emergence", "replication"},
    "decisions": {"ablation"},  # the intact model is scored first
    "early_exit": {"logit_lens"},  # which reads what it is made of
    "emergence": {"ablation"},  # of which protocols interact
    "head_sets": {"heads"},  # of which some are induction heads
    "interactions": {"ablation"},
    "logit_lens": {"tuned_lens"},  # trained first, if it is to be read with
    "path_patching": {"patching"},  # of the same pairs
    "pruning": {"ablation"},
    "removal": {"similarity"},  # by whose measures layers are ordered
    "similarity": {"ablation"},  # whose effects it predicts
    "replication": {  # with whose jobs it measures
        "ablation", "head_sets", "patching", "running_text", "similarity", "transplant",
    },
    "training": {"ablation", "comparison", "emergence", "logit_lens"},
    "transplant": {"ablation"},
}  # fmt: skip


def test_analyses_share_what_is_shared_and_a_few_are_composed_of_others():
    folders = {path.name for path in (ROOT / "analyses").iterdir() if (path / "api.py").exists()}
    named = {one: imported_analyses(f"layerwise.analyses.{one}.") - {"shared"} for one in folders}
    assert {one: others for one, others in named.items() if others} == COMPOSED
    assert not imported_analyses("layerwise.analyses.shared.")


def test_no_two_analyses_are_built_on_each_other():
    left = dict(COMPOSED)
    while left:
        ready = {one for one, others in left.items() if not others & left.keys()}
        assert ready, left
        left = {one: others for one, others in left.items() if one not in ready}


def test_what_plans_analyses_has_them_from_the_contract():
    assert imported_analyses("layerwise.planning.plan") == set()
    assert imported_analyses("layerwise.planning.timing") == set()


def test_every_folder_of_an_analysis_is_in_the_one_list():
    folders = {path.parent.name for path in (ROOT / "analyses").glob("*/api.py")}
    assert folders == {folder.name for folder in OWN}
    for folder in OWN:
        assert folder.path("tables.toml").is_file()
    with_value = {path.parent.name for path in (ROOT / "analyses").glob("*/analysis.py")}
    assert with_value == {*MEASURING, *JOINING}


def test_what_joins_results_imports_no_list_that_has_itself():
    for name in JOINING:
        inner = [module for module in MODULES if module.startswith(f"layerwise.analyses.{name}.")]
        assert not [m for m in inner if "layerwise.analyses.registry" in imports()[m]]


def importers_in_analyses(module: str) -> set[str]:
    """The analyses with a module that imports one."""
    return {
        name.split(".")[2]
        for name, others in imports().items()
        if module in others and folder(name) == "analyses" and name.count(".") > 2
    } - {"loading", "registry"}


def test_an_analysis_is_listed_once_and_its_function_knows_no_list():
    """Analyses that join others import the list of them; those that make one result do not."""
    assert importers_in_analyses("layerwise.analyses.registry") == set()
    joins = {"comparison", "emergence", "training"}
    assert importers_in_analyses("layerwise.analyses.measurements") == joins
    for start in ("layerwise.analyses.ablation.api", "layerwise.analyses.logit_lens.job"):
        assert needed_analyses(start) <= {start.split(".")[2], "shared"}


def needed_analyses(start: str) -> set[str]:
    """The analyses that importing a module needs, and the lists of them."""
    needed, left = set(), [start]
    while left:
        name = left.pop()
        if name not in needed:
            needed.add(name)
            left += imports()[name]
    of_analyses = (name.split(".")[2:] for name in needed if folder(name) == "analyses")
    lists = (["measurements"], ["registry"])
    return {parts[0] for parts in of_analyses if len(parts) > 1 or parts in lists}


def test_carrying_out_one_analysis_needs_no_other():
    """Only what loads, joins or compares whole runs has all analyses from the registry."""
    assert needed_analyses("layerwise.analyses.execute") == set()


# Where tests are corrected for being many; the rest of the package calls what is there.
MULTIPLICITY = ("layerwise.stats", "layerwise.stats.inference")
MULTIPLICITY += ("layerwise.stats.families.multiplicity",)


def names_used(name: str) -> Iterator[str]:
    """Names that a module imports from others, and attributes that it reads."""
    for node in ast.walk(ast.parse(MODULES[name].read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom):
            yield from (one.name for one in node.names)
        elif isinstance(node, ast.Attribute):
            yield node.attr


def test_p_values_are_corrected_in_one_place():
    corrections = {"holm", "benjamini_hochberg", "false_discovery_control"}
    users = {name for name in MODULES if corrections & set(names_used(name))}
    assert users == set(MULTIPLICITY)


def test_studies_and_benchmarks_import_what_is_there():
    """They are run by hand, so that nothing else would find out."""
    top = ROOT.parents[1]
    wrong = [
        f"{path.relative_to(top)}: {node.module}"
        for folder in ("analyses", "benchmarks")
        for path in sorted((top / folder).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.ImportFrom)
        and (node.module or "").split(".")[0] == "layerwise"
        and node.module not in MODULES
    ]
    assert not wrong


# Folders that are a list, of a module for each entry.
LISTS = {"layerwise.analyses.replication.claims"}


def test_a_folder_of_an_analysis_holds_eight_things_or_fewer():
    held: dict[str, set[str]] = {}
    for name in MODULES:
        parent, _, part = name.rpartition(".")
        if any(parent.startswith(f"layerwise.analyses.{one}") for one in ANALYSES):
            held.setdefault(parent, set()).add(part)
    assert held.keys() >= LISTS
    assert {one: len(parts) for one, parts in held.items() if len(parts) > 8}.keys() == LISTS


def test_no_file_is_longer_than_a_reader_will_follow():
    lines = {name: len(path.read_text("utf-8").splitlines()) for name, path in MODULES.items()}
    assert not {name: n for name, n in lines.items() if n > 400}
    assert sorted(lines.values())[len(lines) // 2] < 160
