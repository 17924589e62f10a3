"""The page in a real browser: pointing, choosing, keys, and all of it without its script."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import synthetic
from synthetic import Plan

from layerwise.analyses.ablation.tables.questions import question_table
from layerwise.report import report
from layerwise.results import AblationResult
from tests.pages import blank_pages

PLAN = Plan(
    n_layers=6,
    n_items=30,
    tasks=(("facts", "knowledge"), ("look-up", "retrieval")),
    protocols=("continuation", "generate"),
    silent=(),
    critical={"continuation": (2,), "generate": (2,)},
    kinds=(("skip", "layer"), ("zero", "mlp_out")),
)
CELL = '[data-capability="knowledge"] [data-protocol="generate"] td[data-layer="{}"]'


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None and "LAYERWISE_BROWSER" not in os.environ:
        pytest.skip("needs Chromium: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        # Containers let no process make a sandbox of its own.
        found = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    asked = question_table(
        {
            "task": task, "protocol": protocol, "item": f"{task}/{i:04d}",
            "context": f"Who is {i}? <b>", "answer": "</script><b>me", "gold": True,
        }
        for task, _ in PLAN.tasks
        for protocol in PLAN.protocols
        for i in range(PLAN.n_items)
    )  # fmt: skip
    result = AblationResult(synthetic.records(PLAN), synthetic.facts(PLAN))
    path = tmp_path_factory.mktemp("page") / "report.html"
    with blank_pages():
        return report(replace(result, questions=lambda: asked)).save(path)


@pytest.fixture
def open_page(browser: Any, page_file: Path) -> Iterator[Any]:
    """The page at 1400 x 860; nothing may go wrong on it."""
    page = browser.new_page(viewport={"width": 1400, "height": 860})
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text))
    page.goto(page_file.as_uri())
    yield page
    page.close()
    assert wrong == []


def test_the_first_screen_has_the_answer_its_numbers_and_its_items(open_page: Any) -> None:
    for part in ("h1", ".strip", ".legend", ".box >> nth=1", ".claims li >> nth=0"):
        box = open_page.locator(part).first.bounding_box()
        assert box["y"] + box["height"] < 860
    open_page.locator(CELL.format(2)).hover()
    assert "layer 2, when it writes: " in open_page.locator(".tip").inner_text()
    open_page.locator("h1").hover()
    assert open_page.locator(".tip").is_hidden()
    panel = open_page.locator(".items")
    assert panel.is_hidden()
    open_page.locator(CELL.format(2)).click()
    assert panel.locator("h2").inner_text() == "Without layer 2: knowledge, when the model writes"
    n = panel.locator("tbody tr").count()
    assert f"{n} lost, 0 gained, of 30 items" in panel.locator("h3").inner_text()
    assert n > 15
    cells = panel.locator("tbody tr").first.locator("td").all_inner_texts()
    assert (cells[0], cells[1][:7], cells[2]) == ("lost", "Who is ", "</script><b>me")
    panel.locator("select").select_option("gained")
    assert panel.locator("tbody tr").count() == 0
    panel.locator("button").click()
    assert panel.is_hidden()


def test_a_click_on_a_mark_of_a_figure_opens_its_items_below_it(open_page, page_file, tmp_path):
    marks = "".join(
        f'<path data-change="{kind}|facts|generate|2" d="M{x} 0h9v9H{x}z"/>'
        for x, kind in ((0, "skip|layer"), (20, "zero|mlp_out"))
    )
    drawn = tmp_path / "drawn.html"
    text = page_file.read_text("utf-8")
    mark = f'<figure id="drawn"><svg viewBox="0 0 40 40">{marks}</svg></figure>'
    drawn.write_text(text.replace("</main>", f"{mark}</main>", 1), "utf-8")
    open_page.goto(drawn.as_uri())
    known, other = (open_page.locator("#drawn path").nth(i) for i in range(2))
    assert known.get_attribute("class") == "opens"
    assert other.get_attribute("class") is None  # the page has items of skips alone
    known.click()
    panel = open_page.locator("#drawn + .items")
    assert panel.locator("h2").inner_text() == "Without layer 2: facts, when the model writes"
    assert ", 0 gained, of 30 items" in panel.locator("h3").inner_text()
    panel.locator("button").click()
    assert panel.is_hidden()


def test_the_strip_is_walked_with_keys_and_figures_are_chosen(open_page: Any) -> None:
    open_page.locator(".strip td[tabindex='0']").focus()
    for key in ("ArrowDown", "ArrowRight", "ArrowRight"):
        open_page.keyboard.press(key)
    assert open_page.evaluate("document.activeElement.dataset.layer") == "2"
    assert "when it writes" in open_page.locator(".tip").inner_text()
    open_page.keyboard.press("Enter")
    assert open_page.locator(".items").is_visible()
    open_page.locator('nav a[href="#roles"]').click()
    tabs = open_page.locator("#roles .tabs")
    figures = tabs.locator("figure")
    assert [figures.nth(i).is_visible() for i in range(2)] == [True, False]
    tabs.locator("label", has_text="zero").click()
    assert [figures.nth(i).is_visible() for i in range(2)] == [False, True]


def opened_by_its_link(page: Any) -> None:
    """A section opens by its link, below the contents."""
    part, contents = page.locator("#roles"), page.locator("nav")
    assert not part.is_visible()
    contents.locator('a[href="#roles"]').click()
    assert part.is_visible()
    heading = page.locator(".part", has=part).locator("h2").first.bounding_box()
    covered = contents.bounding_box()
    assert covered["y"] + covered["height"] < heading["y"] < 200


CUT = """() => {
    const frames = [document.documentElement, ...document.querySelectorAll(".scroll")];
    return frames.filter(each => each.scrollWidth > each.clientWidth + 1)
                 .map(each => each.getAttribute("aria-label"));
}"""


@pytest.mark.parametrize("width", [1400, pytest.param(800, marks=pytest.mark.long), 420])
def test_nothing_is_cut_at_any_width(browser: Any, page_file: Path, width: int) -> None:
    page = browser.new_page(viewport={"width": width, "height": 860})
    page.goto(page_file.as_uri())
    opened_by_its_link(page)
    page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => setTimeout(done)))")
    assert page.evaluate(CUT) == []
    heads = "cells => cells.map(cell => cell.dataset.head)"
    named = page.locator(".stacked td").evaluate_all(heads)
    assert all(named)
    assert bool(named) == (width < 1400)
    page.close()


@pytest.mark.long
def test_without_script_all_is_there_and_fits_on_paper(browser: Any, page_file: Path) -> None:
    context = browser.new_context(java_script_enabled=False, viewport={"width": 800, "height": 860})
    page = context.new_page()
    page.goto(page_file.as_uri())
    assert "layer 2" in page.locator(CELL.format(2)).get_attribute("title")
    assert page.locator(".hint").is_hidden()
    page.locator(".claims summary").first.click()
    assert page.locator(".claims li").first.locator("p").first.is_visible()
    parts = page.locator(".part > summary")
    for i in range(parts.count()):
        parts.nth(i).click()
    assert page.evaluate(CUT) == []
    page.set_viewport_size({"width": 718, "height": 1000})  # A4 within its margins
    page.emulate_media(media="print")
    assert page.evaluate(CUT) == []
    context.close()
