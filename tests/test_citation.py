"""Citation: CITATION.cff says the same as the package and as its BibTeX entries."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from layerwise.report._methods import references
from tests import synthetic

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def cited() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))


def bibtex_entry(kind: str) -> dict[str, str]:
    """Fields of an entry of ``references.bib``, without its braces."""
    text = references(synthetic.small_ablation().facts)
    (entry,) = re.findall(rf"@{kind}{{.*?\n}}\n", text, re.DOTALL)
    fields = re.findall(r"^  (\w+) = {(.*)},$", entry, re.MULTILINE)
    return {name: re.sub("[{}]", "", value) for name, value in fields}


def test_the_citation_names_what_the_package_is(cited):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert cited["authors"] == project["authors"]
    for field in ("version", "license"):
        assert cited[field] == project[field]
    released = f"## [{cited['version']}] - {cited['date-released']}\n"
    assert released in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_the_citation_is_that_of_the_entry_for_a_paper(cited):
    entry = bibtex_entry("software")
    assert entry["title"] == cited["title"]
    assert [{"name": entry["author"]}] == cited["authors"]
    assert entry.get("url") == cited.get("repository-code")


def test_the_page_on_citing_names_the_same_version(cited):
    page = (ROOT / "docs" / "index.md").read_text("utf-8")
    assert re.findall(r"^  version = {(.*)},$", page, re.MULTILINE) == [cited["version"]]


def test_the_papers_reference_is_that_of_its_entry(cited):
    (paper,) = cited["references"]
    entry = bibtex_entry("article")
    assert {name: entry[name] for name in ("title", "journal", "url")} == {
        name: paper[name] for name in ("title", "journal", "url")
    }
    assert entry["year"] == str(paper["year"])
    first, others = paper["authors"]
    names = f"{first['family-names']}, {first['given-names']} and {others['name']}"
    assert entry["author"] == names
