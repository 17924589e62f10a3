"""Texts for newcomers: short sentences, the field's words, links that lead somewhere."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MOST_WORDS = 25

# A source in brackets, with its year.
CITATION = r" \((?:[^()]|\([^()]*\))*\b(?:18|19|20)\d\d(?!\d)(?:[^()]|\([^()]*\))*\)"

# What this project used to say, and what it says now.
NOT_OURS = {
    r"told": "reported",
    r"rungs?": "scoring step",
    r"ladder": "scoring steps",
    r"held (?:to|against)": "tested against",
    r"turns? round": "need different layers",
    r"for nothing": "by chance",
    r"letting go": "release",
    r"hand(?:s|ed)? over": "moves",
    r"(?:open|closed) books?": "with, without passage",
    r"kin": "similar models",
    r"what (?:is|was) asked": "items",
    r"asks? anew|asked anew": "again",
}


def pages():
    """Every page of the repository that is written by hand."""
    folders = ("docs", "analyses", "benchmarks")
    written = [page for folder in folders for page in sorted((ROOT / folder).rglob("*.md"))]
    return [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("notebooks/*.ipynb")), *written]


# Tables of numbers beside results are made by programs.
IN_PLAIN_WORDS = [str(p.relative_to(ROOT)) for p in pages() if "results" not in p.parts]


def page_text(page: Path) -> str:
    """A page's Markdown; of a notebook, that of its cells."""
    content = page.read_text("utf-8")
    if page.suffix != ".ipynb":
        return content
    cells = json.loads(content)["cells"]
    return "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")


def prose(page: str) -> str:
    """A page's text without code, tables, pictures, sources in brackets and targets of links."""
    page = re.sub(r"```.*?```", "\n\n", page, flags=re.DOTALL)
    page = re.sub(CITATION, "", page)
    kept = [
        ""
        if re.match(r"\s*(\||!\[| {4}\S|<!--)", line) and not re.match(r"\s+[-*] ", line)
        else line
        for line in page.splitlines()
    ]
    return re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", "\n".join(kept))


def sentences(page: str) -> list[str]:
    """The sentences of a page's prose; headings and list items end one."""
    apart = re.sub(r"(?m)^(#+ .*)$", r"\n\1\n", prose(page))
    blocks = re.split(r"\n\s*\n|\n(?=\s*(?:[-*>] |\d+\. ))", apart)
    lines = [" ".join(block.split()) for block in blocks if block]
    ends = r"(?<=[.!?])[)\"*_]*\s+(?=[A-Z`\"(*\[_0-9]|p is|layerwise)"
    return [sentence for line in lines for sentence in re.split(ends, line) if sentence]


def n_words(sentence: str) -> int:
    """Number of words in a sentence; a code span is one."""
    return len(re.findall(r"\S*\w\S*", re.sub(r"`[^`]*`", "code", sentence)))


def anchors(page: str) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    headings = re.findall(
        r"^#+ (.*)$", re.sub(r"```.*?```", "", page, flags=re.DOTALL), re.MULTILINE
    )
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in headings]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in plain}


@pytest.mark.parametrize(
    ("sentence", "n"),
    [
        ("It is one.", 1),
        ("One. Two (see [a page](b.md#c)). `f(x y)` is three.", 3),
        ("- a\n- b", 2),
    ],
)
def test_sentences_end_at_stops_and_list_items(sentence, n):
    assert len(sentences(sentence)) == n


def test_code_tables_and_targets_are_no_prose():
    page = "A b.\n\n```\nc d\n```\n| e | f |\n[g](h.md)\n"
    assert prose(page).split() == ["A", "b.", "g"]


@pytest.mark.parametrize("name", IN_PLAIN_WORDS)
def test_a_page_has_no_long_sentence(name):
    text = page_text(ROOT / name)
    assert [s for s in sentences(text) if n_words(s) > MOST_WORDS] == []


@pytest.mark.parametrize("name", IN_PLAIN_WORDS)
def test_a_page_has_only_words_of_the_field(name):
    text = re.sub(r"`[^`]*`", "", prose(page_text(ROOT / name)))
    found = [word for word in NOT_OURS if re.search(rf"\b(?:{word})\b", text, re.IGNORECASE)]
    assert {word: NOT_OURS[word] for word in found} == {}


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_a_file_and_a_heading(page):
    broken = []
    text = re.sub(r"```.*?```|`[^`]*`", "", page_text(page), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file.read_text("utf-8"))):
            broken.append(target)
    assert broken == []


def test_readme_names_the_command_of_the_tests_and_fits_two_screens():
    text = (ROOT / "README.md").read_text("utf-8")
    assert "`make test`" in text
    assert len(text.splitlines()) <= 95


@pytest.mark.slow
def test_the_python_of_the_readme_runs(tmp_path, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    assert (tmp_path / "report.html").stat().st_size > 10_000
