"""Pages of the site, without building it: which stand in its contents, and the API's names."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

import layerwise as lw

ROOT = Path(__file__).parents[1]
SITE = ROOT / "docs" / "site"


def contents() -> Counter[str]:
    """Number of times that each page of the repository is in the site's contents."""
    lines = [line for page in SITE.glob("*.md") for line in page.read_text("utf-8").splitlines()]
    entries = [re.fullmatch(r"(?:.* <)?/([\w/]+)>?", line) for line in lines]
    return Counter(entry[1] for entry in entries if entry)


def test_each_page_stands_once_in_the_contents():
    pages = [*ROOT.glob("docs/**/*.md"), *ROOT.glob("notebooks/*.ipynb")]
    pages = [page for page in pages if SITE not in page.parents]
    names = {page.relative_to(ROOT).with_suffix("").as_posix() for page in pages}
    counts = contents()
    assert {name: counts[name] for name in names} == dict.fromkeys(names, 1)


@pytest.mark.parametrize("name", lw.__all__)
def test_each_public_name_stands_once_in_the_api(name):
    pages = "\n".join(page.read_text("utf-8") for page in SITE.glob("api/*.md"))
    entries = re.findall(rf"^\.\. auto(?:function|class):: layerwise\.{name}$", pages, re.MULTILINE)
    assert len(entries) == 1
