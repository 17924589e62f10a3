"""The page of a run: its parts, its links, its safety, and runs side by side."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest
import synthetic
from legible import words
from synthetic import Plan

from layerwise.analyses.ablation.page.sections import effects_tables
from layerwise.errors import UserError
from layerwise.presentation.section import FigureSpec
from layerwise.report import Report, report, report_from_folders
from layerwise.report.html import group_by_run
from layerwise.results import AblationResult, LensResult, PatchingResult, Result
from layerwise.storage.places import PAGE_MARK
from tests.pages import blank, blank_pages, without_pictures

VOID = {"meta", "img", "source", "br", "hr", "link", "input", "col"}
TINY = Plan(
    n_layers=3,
    n_items=30,
    tasks=(("facts", "knowledge"),),
    protocols=("generate",),
    silent=(),
    critical={"generate": (1,)},
)


class Reader(HTMLParser):
    """Collects elements and checks that tags are nested."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.elements if name == tag]


@pytest.fixture(scope="module")
def page(small_results: list[Result]) -> Report:
    """The page of many parts, whose figures are not made into pictures."""
    made = report(small_results)
    with without_pictures():
        assert made.html
    return made


@pytest.fixture(scope="module")
def page_with_pictures() -> Report:
    """A page with all of its pictures."""
    return report(AblationResult(synthetic.records(TINY), synthetic.facts(TINY)))


@pytest.fixture(scope="module")
def two_runs() -> Report:
    first = synthetic.facts(TINY)
    other = replace(TINY, n_items=20)
    tasks = (first.tasks[0].model_copy(update={"hash": "ffff" * 8, "n_items": 20}),)
    second = synthetic.facts(other, tasks=tasks)
    results = [
        AblationResult(synthetic.records(TINY), first),
        AblationResult(synthetic.records(other, seed=1), second),
    ]
    made = report(results)
    with blank_pages():
        assert made.html
    return made


def headings(text: str) -> list[str]:
    return [unescape(found) for found in re.findall(r"<h2[^>]*>(.*?)</h2>", text)]


def test_all_parts_are_there_in_order(page: Report) -> None:
    assert headings(page.html) == [
        "How sure is this?",
        "Not shown",
        "Different layers, or one order?",
        "Role map",
        "Accuracy per layer",
        "Scoring steps",
        "Protocol comparison",
        "Protocols and groups of layers",
        "Logit lens",
        "Prediction depth",
        "Activation patching",
        "Where capabilities emerge",
        "Agreement of methods",
        "Effects in numbers",
        "No signal",
        "Other claims",
        "Facts needed to repeat it",
        "What this can and cannot say",
        "Words",
    ]


@pytest.mark.usefixtures("blank_pictures")
def test_what_was_not_run_has_no_part() -> None:
    told = synthetic.facts(TINY)
    lens = LensResult(synthetic.lens(TINY, protocols=("letter",)), told)
    alone = report(lens)
    assert headings(alone.html) == [
        "Logit lens",
        "Facts needed to repeat it",
        "What this can and cannot say",
        "Words",
    ]
    assert list(alone.figures) == ["lens_letter"]
    assert alone.findings == ()
    assert "Nothing is claimed about layers." in alone.html
    one_protocol = report(AblationResult(synthetic.records(TINY), told))
    assert "Protocol comparison" not in headings(one_protocol.html)
    assert "No signal" not in headings(one_protocol.html)


def test_the_page_is_well_formed_and_needs_nothing_else(
    page: Report, page_with_pictures: Report
) -> None:
    assert PAGE_MARK in page.html[:200]  # which tells it from the pages of others
    assert Reader(page.html).all("script") == [{}]  # the page's own
    reader = Reader(page_with_pictures.html)
    assert reader.all("script") == [{}]  # the page's own
    assert reader.all("link") == reader.all("iframe") == []
    for _, attrs in reader.elements:
        for name in ("src", "srcset", "data", "action", "poster"):
            assert (attrs.get(name) or "data:image/").startswith("data:image/")
        assert (attrs.get("href") or "#").startswith(("#", "data:image/png;base64,"))
        assert not any(name.startswith("on") for name in attrs)
    without_images = re.sub(r"data:image/[^\"]*", "", page.html + page_with_pictures.html)
    assert not re.search(r"https?:|url\((?!#)|@import|//[a-z]", without_images)
    assert len(page_with_pictures.html) < 1_000_000


def test_links_lead_to_parts_and_ids_are_unique(page, page_with_pictures, two_runs) -> None:
    for parsed in (Reader(each.html) for each in (page, page_with_pictures, two_runs)):
        ids = [attrs["id"] for _, attrs in parsed.elements if "id" in attrs]
        assert len(ids) == len(set(ids))
        targets = {str(attrs["href"])[1:] for attrs in parsed.all("a")}
        assert targets <= set(ids)
        assert len(targets) > 3


def test_figures_have_alternative_texts_and_captions(
    page: Report, page_with_pictures: Report
) -> None:
    reader, figure = Reader(page_with_pictures.html), r"<figcaption>(.*?)</figcaption>"
    images = reader.all("img")
    assert len(images) == len(page_with_pictures.figures) > 1  # for narrow screens
    drawings = [attrs for attrs in reader.all("svg") if attrs.get("role") == "img"]
    assert len(drawings) == len(images)
    assert [one["aria-label"] for one in drawings] == [image["alt"] for image in images]
    assert all(len(str(image["alt"])) > 20 for image in images)
    captions = re.findall(figure, page.html, re.DOTALL)
    assert len(captions) == len(page.figures)
    assert all("n = " in caption for caption in captions)
    assert sum("95 %" in caption or "intervals" in caption for caption in captions) == len(captions)


@pytest.mark.long
def test_figures_say_units_items_and_names(page: Report) -> None:
    expected = {
        "role_map_skip_layer": "share of above-floor accuracy lost",
        "accuracy_skip_layer": "accuracy (%)",
        "protocols_skip_layer": "accuracy lost (%)",
        "ladder_skip_layer": "n = ",
        "lens_letter": "(nats)",
        "patching_resid_pre": "share recovered",
        "emergence": "relative depth",
    }
    for name, unit in expected.items():
        written = words(page.figures[name])
        assert unit in written
        assert "n = " in written
    assert "no signal: picks a letter\n" in words(page.figures["accuracy_skip_layer"])


def test_findings_facts_and_silent_pairs_are_on_the_page(page: Report, small: Plan) -> None:
    facts, text = synthetic.facts(small), unescape(page.html)
    assert len(page.findings) > 4
    for said in (
        *(finding.full for finding in page.findings),
        facts.model.hash, facts.tasks[0].hash[:12], "2025-01-02", "61.5", "36\u202f000",
        facts.versions["torch"],
    ):  # fmt: skip
        assert said in text
    silent = page.html.split('id="silent"')[1].split("</section>")[0]
    assert [word in silent for word in ("two-hop", "picks a letter", "writes")] == [
        True,
        True,
        False,
    ]


def test_the_largest_effects_come_first_and_all_are_there(page, small_run):
    top, everything = effects_tables(small_run)
    assert everything.collapsed
    assert not top.collapsed
    assert len(everything.cells) == len(small_run.tables["effects"])
    sure = [row[-1] == "yes" for row in everything.cells]
    assert sure == sorted(sure, reverse=True)
    assert sum(sure) == small_run.tables["effects"]["significant"].sum()
    assert page.html.count("<details>") >= 4


def test_runs_stand_side_by_side(two_runs: Report) -> None:
    text = unescape(two_runs.html)
    assert "Numbers side by side" in headings(two_runs.html)
    assert "Run 1, tiny <b>model</b>" in text
    assert "Run 2, tiny <b>model</b>" in text
    assert "The runs do not have the same items under the name facts" in text
    said = r"1 of 3 layers significant; most: skipping layer 1, \d+ \[\d+, \d+\] accuracy points"
    assert re.search(said, text)
    assert all(finding.full.startswith("Run ") for finding in two_runs.findings)
    names = list(two_runs.figures)
    assert names == [
        "run1_role_map_skip_layer",
        "run1_accuracy_skip_layer",
        "run2_role_map_skip_layer",
        "run2_accuracy_skip_layer",
    ]


def test_results_are_sorted_into_runs(small: Plan) -> None:
    told = synthetic.facts(small)
    other_model = told.model_copy(
        update={"model": told.model.model_copy(update={"hash": "cd" * 32})}
    )
    ablation = AblationResult(synthetic.records(small), told)
    lens = synthetic.lens(small)
    mine, foreign = LensResult(lens, told), LensResult(lens, other_model)
    assert group_by_run([ablation, foreign, mine]) == [[ablation, mine], [foreign]]
    assert group_by_run([ablation, ablation]) == [[ablation], [ablation]]


@pytest.mark.long
@pytest.mark.usefixtures("blank_pictures")
def test_folders_give_the_same_page_as_results(tmp_path: Path) -> None:
    told = synthetic.facts(TINY)
    ablation = AblationResult(synthetic.records(TINY), told)
    ablation.save(tmp_path / "a")
    from_folder = report_from_folders(tmp_path / "a")
    assert "emergence" in from_folder.figures
    direct = report(ablation)
    assert set(direct.figures) < set(from_folder.figures)
    assert {f.full for f in direct.findings} <= {f.full for f in from_folder.findings}
    pair = report_from_folders([tmp_path / "a", tmp_path / "a"])
    assert "Numbers side by side" in headings(pair.html)
    assert "Run 2 (a), tiny <b>model</b>" in headings(pair.html)
    assert "The runs do not have the same items" not in pair.html


@pytest.mark.long
@pytest.mark.usefixtures("blank_pictures")
def test_saved_depths_stay_until_what_they_are_joined_from_is_made_again(tmp_path, small):
    planted, said = synthetic.results(small)[-1], "retrieval comes before knowledge"
    patches = PatchingResult(synthetic.patching_rows(small, 3, 4), planted.facts)
    patches.save(tmp_path)
    planted.save(tmp_path)
    text = report_from_folders(tmp_path).html
    assert said in text
    assert "Left out of the depths, and why" in text
    later = planted.facts.model_copy(update={"created": planted.facts.created + timedelta(days=1)})
    replace(patches, facts=later).save(tmp_path)
    assert said not in report_from_folders(tmp_path).html


def test_nothing_to_report_is_told_in_one_sentence(tmp_path: Path) -> None:
    for empty in (lambda: report([]), lambda: report_from_folders([])):
        with pytest.raises(UserError, match=r"^There is nothing to report: expected .*first\.$"):
            empty()
    with pytest.raises(UserError, match="No results in"):
        report_from_folders(tmp_path)


def test_a_notebook_gets_the_page_in_a_frame(two_runs: Report) -> None:
    shown = two_runs._repr_html_()
    (frame,) = Reader(shown).all("iframe")
    assert frame["srcdoc"] == two_runs.html
    assert repr(two_runs).startswith("Report(findings=")


@pytest.mark.long
def test_pictures_are_drawn_once_and_not_for_its_sentences(small: Plan, monkeypatch) -> None:
    drawn = []

    def counted(listed: Sequence[tuple[str, FigureSpec, object]]) -> tuple[dict, dict]:
        drawn.append([name for name, *_ in listed])
        return blank(listed)

    monkeypatch.setattr("layerwise.report._page.render_pictures", counted)
    told = report(synthetic.results(small))
    assert told.findings
    assert "Report" in repr(told)
    assert not drawn
    assert told.html
    assert list(told.figures) == drawn[0]
    assert len(drawn) == 1
