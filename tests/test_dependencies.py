"""Ranges of dependencies and their promises, what is locked, and what a distribution holds."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from importlib import metadata
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from layerwise.models.names.registry import BUNDLED, ORGANISM_WEIGHTS, PackagedModel
from tests.lowest import lowest

ROOT = Path(__file__).parents[1]


def test_the_lowest_releases_are_not_below_what_transformer_lens_needs():
    """It is nearly pinned, so that a lower promise about what it needs could not be kept."""
    claimed = dict(one.split("==") for one in lowest())
    if Version(metadata.version("transformer-lens")) != Version(claimed["transformer-lens"]):
        pytest.skip("another release of transformer-lens than the lowest is installed")
    needed = map(Requirement, metadata.requires("transformer-lens") or [])
    ours = [one for one in needed if canonicalize_name(one.name) in claimed and one.marker is None]
    assert "transformers" in [one.name for one in ours]
    for one in ours:
        assert one.specifier.contains(claimed[canonicalize_name(one.name)]), str(one)


def imported_packages(folder: Path) -> set[str]:
    """The packages of others that a folder's modules import, also within functions."""
    names: set[str] = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                names |= {one.name.partition(".")[0] for one in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.partition(".")[0])
    return names - sys.stdlib_module_names - {"layerwise"}


def test_every_package_that_is_imported_is_declared_and_has_its_reason():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    named = [*project["dependencies"], *chain(*(extras[one] for one in extras if one != "test"))]
    declared = {canonicalize_name(Requirement(one).name) for one in named}
    distributions = metadata.packages_distributions()
    missing = {
        name
        for name in imported_packages(ROOT / "src")
        if not declared & {canonicalize_name(one) for one in distributions.get(name, [name])}
    }
    assert missing == set()
    page = (ROOT / "docs" / "dependencies.md").read_text("utf-8")
    rows = set(re.findall(r"^\| ([\w-]+) \|", page, re.MULTILINE))
    assert declared - {canonicalize_name(row) for row in rows} == set()


def pins(*names: str) -> list[tuple[str, str]]:
    """Releases that files of ``make lock`` pin, with what stands behind the version."""
    lines = [line for name in names for line in (ROOT / name).read_text("utf-8").splitlines()]
    pinned = [line.split("==") for line in lines if "==" in line]
    return sorted((canonicalize_name(name), release) for name, release in pinned)


def test_every_locked_release_but_torch_has_its_hashes():
    hashed = pins("requirements-package.txt", "requirements-test.txt")
    locked = [(name, f"{release} \\") for name, release in pins("constraints.txt")]
    assert hashed == [pin for pin in locked if pin[0] != "torch"]


def test_what_is_locked_is_all_that_the_package_and_its_tests_name():
    """The Makefile installs the locked releases alone, and asks pip for nothing else."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    named = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    locked = dict(pins("constraints.txt"))
    for one in map(Requirement, named):
        assert one.specifier.contains(locked[canonicalize_name(one.name)]), str(one)


def test_each_organism_is_in_one_wheel_and_named_with_the_command_that_brings_it():
    weights = "models/organisms/weights"
    owners = {
        "": (tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8")), "layerwise"),
        "pip install 'layerwise[organisms]'": (
            tomllib.loads((ROOT / "src/layerwise" / weights / "pyproject.toml").read_text("utf-8")),
            f"layerwise.{weights.replace('/', '.')}",
        ),
    }
    versions = {project["project"]["version"] for project, _ in owners.values()}
    assert len(versions) == 1
    organisms = [model for model in BUNDLED.values() if isinstance(model, PackagedModel)]
    assert {path.parent for path in ORGANISM_WEIGHTS.glob("*/*")} == {
        one.folder for one in organisms
    }
    for model in organisms:
        inner = f"{model.name}/model.safetensors"
        packed = [
            install
            for install, (project, package) in owners.items()
            for pattern in project["tool"]["setuptools"]["package-data"][package]
            if fnmatch(inner if install else f"{weights}/{inner}", pattern)
        ]
        assert packed == [model.install]


def test_the_source_distribution_has_every_file_of_the_repository():
    """Tests read docs, studies, benchmarks and the Makefile; the build takes the package itself."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("needs git and a clone of the repository")
    listed = subprocess.run([git, "-C", ROOT, "ls-files", "-z"], capture_output=True, text=True)
    if listed.returncode:  # a clone of somebody else's, which git refuses to read
        pytest.skip(listed.stderr)
    lines = [
        line.split()
        for line in (ROOT / "MANIFEST.in").read_text("utf-8").splitlines()
        if line and not line.startswith("#")
    ]
    taken = {"LICENSE", "MANIFEST.in", "README.md", "pyproject.toml"}
    taken |= {name for verb, *names in lines if verb == "include" for name in names}
    grafted = ("src/", *(f"{name}/" for verb, name, *_ in lines if verb == "graft"))
    dropped = [
        (within, name)
        for verb, within, *names in lines
        if verb == "recursive-exclude"
        for name in names
    ]
    left_out = [
        path
        for path in listed.stdout.split("\0")[:-1]
        if not (path.startswith(grafted) or any(fnmatch(path, name) for name in taken))
        or any(fnmatch(path, f"{within}/*{name}") for within, name in dropped)
    ]
    assert left_out == []
