"""Ways of scoring have the first screen's words in figures and tables; saved tables keep keys."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from legible import assert_everyday_words, raw_keys
from matplotlib.figure import Figure

from layerwise.presentation.wording import PROTOCOL_ORDER, RUNG_ORDER, protocol_words
from layerwise.report import Report
from layerwise.results import AblationResult, Result


class PageWords(HTMLParser):
    """Words of a page's tables, captions and choices, but for rows quoted from a file."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.quoted, self.inside, self.texts = 0, 0, []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.quoted += tag == "ul" and (self.quoted > 0 or dict(attrs).get("class") == "claims")
        self.inside += tag in ("td", "th", "figcaption", "label")

    def handle_endtag(self, tag: str) -> None:
        self.quoted -= tag == "ul" and self.quoted > 0
        self.inside -= tag in ("td", "th", "figcaption", "label")

    def handle_data(self, data: str) -> None:
        if self.inside and not self.quoted:
            self.texts.append(data)


@pytest.mark.parametrize("name", [*PROTOCOL_ORDER, *RUNG_ORDER])
def test_each_way_of_scoring_has_words_of_its_own(name: str) -> None:
    assert raw_keys(protocol_words(name)) == []


def test_choosing_has_one_name_in_protocols_and_steps() -> None:
    assert protocol_words("choice") == protocol_words("continuation") == "chooses"
    assert protocol_words("a way of one's own") == "a way of one's own"


# By day test_legible looks at each kind of figure.
@pytest.mark.long
def test_every_figure_of_a_page_is_in_everyday_words(page: Report) -> None:
    assert len(page.figures) > 10
    for figure in page.figures.values():
        assert_everyday_words(figure)


@pytest.mark.long
def test_the_tables_of_a_page_are_in_everyday_words(page: Report) -> None:
    texts = PageWords(page.html).texts
    # The facts name the keys beside the words, for the command that repeats the run.
    (facts,) = [text for text in texts if text == "picks a letter (letter), writes (generate)"]
    # A caption says what its figure's words mean, with the field's terms.
    terms = {"first token", "teacher forcing"}
    named = {text: {*raw_keys(text)} - (terms if "Each word:" in text else set()) for text in texts}
    assert {text for text, keys in named.items() if keys} == {facts}
    assert {"picks a letter", "writes", "way of scoring"} <= set(texts)
    assert not {"protocol", "protocols"} & set(texts)


def test_claims_are_in_everyday_words(page: Report) -> None:
    said = [re.sub(r"--\w+ \S+", "", claim.full) for claim in page.findings]  # but for options
    assert [text for text in said if raw_keys(text)] == []


def test_a_key_in_a_figure_is_refused() -> None:
    for text in ("letter", "no signal: generate", "continuation, n = 7"):
        figure = Figure()
        figure.text(0.5, 0.5, text)
        with pytest.raises(AssertionError):
            assert_everyday_words(figure)


def test_a_notebook_shows_words_and_the_table_has_keys(small_results: list[Result]) -> None:
    (ablation,) = [one for one in small_results if isinstance(one, AblationResult)]
    assert set(ablation.effects()["protocol"]) == {"letter", "generate"}
    assert set(ablation.summary_rows()["way of scoring"]) <= {"picks a letter", "writes"}
