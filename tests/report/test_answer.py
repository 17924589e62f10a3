"""The first screen: what it says of planted layers, and what it says where nothing is known."""

from __future__ import annotations

import re
from dataclasses import replace
from html import unescape

import pandas as pd
import pytest
import synthetic
from synthetic import Plan

from layerwise.analyses.ablation.claims import differences
from layerwise.analyses.registry import run_tables
from layerwise.presentation.claim import APART, GENERAL, NEEDED, SILENT
from layerwise.report import report, report_from_folders
from layerwise.report._answer import Answer, StripColumn, first_screen
from layerwise.report._page import Page
from layerwise.report._terminal import MOST_LINES, WIDTH, answer_text
from layerwise.report.html import findings_from_tables
from layerwise.results import AblationResult
from layerwise.stats.effects import INTACT
from layerwise.storage.run_tables import RunTables

# Knowledge loses layers 2 and 5, retrieval 2 and 7; reasoning is guessed when it picks a letter.
TWO = Plan(
    n_layers=10,
    n_items=60,
    tasks=(("facts", "knowledge"), ("look-up", "retrieval"), ("sums", "reasoning")),
    protocols=("letter", "generate"),
    silent=(("sums", "letter"), ("sums", "generate")),
    critical={"letter": (2,), "generate": (2,)},
)


def planted_run(plan: Plan = TWO, **own: int) -> RunTables:
    """A run in which a task loses all its answers at one more layer of its own."""
    table = synthetic.records(plan)
    for task, layer in own.items():
        hit = (table["task"] == task.replace("_", "-")) & (table["layer"] == layer)
        table.loc[hit, "correct"] = False
    return run_tables([AblationResult(table, synthetic.facts(plan))])


@pytest.fixture(scope="module")
def run() -> RunTables:
    return planted_run(facts=5, look_up=7)


@pytest.fixture(scope="module")
def answer(run: RunTables) -> Answer:
    return first_screen(run, findings_from_tables(run))


def test_the_headline_names_the_planted_layers(answer: Answer) -> None:
    assert answer.headline == (
        "Look-up and facts depend on different layers: 7 against 5. "
        "Both capabilities with signal need layer 2."
    )
    kinds = [claim.kind for claim in answer.claims]
    assert kinds[:2] == [APART, GENERAL]
    assert NEEDED not in kinds


def test_capabilities_are_compared_once_for_a_page(monkeypatch) -> None:
    run, calls = planted_run(facts=5, look_up=7), []
    compare = differences._compare_pair

    def counted(*given: object) -> differences.CapabilityComparison:
        calls.append(given)
        return compare(*given)

    monkeypatch.setattr(differences, "_compare_pair", counted)
    page = Page("run", run, findings_from_tables(run))
    assert page.answer.headline
    assert page.leading_figures
    assert page.parts
    assert len(calls) == len(differences.compared_capabilities(run)) == 1
    again = differences.compared_capabilities(replace(run))
    assert len(calls) == 2
    (one,), (other,) = differences.compared_capabilities(run), again
    assert one[:5] == other[:5]
    assert (str(one.closest), one.gap) == (str(other.closest), other.gap)
    pd.testing.assert_frame_equal(one.crossings, other.crossings)


def test_the_strip_marks_what_is_established(answer: Answer) -> None:
    blocks = {block.capability: block for block in answer.blocks}
    assert answer.general == {2}
    assert blocks["retrieval"].needed == {2, 7}
    assert blocks["retrieval"].particular == {7}
    assert blocks["knowledge"].needed == {2, 5}
    assert blocks["knowledge"].particular == {5}
    first = blocks["knowledge"].bands[0]
    assert first.words == "picks a letter"
    assert re.fullmatch(r"\d+ %, \d+ right", first.right)
    assert not first.pale
    assert first.cells[5].shade == 10
    assert first.cells[4].shade <= 1
    assert "facts" in first.cells[5].words


def test_where_the_model_guesses_the_strip_and_the_box_say_so(answer: Answer) -> None:
    reasoning = next(block for block in answer.blocks if block.capability == "reasoning")
    assert all(band.silent and not band.cells for band in reasoning.bands)
    assert reasoning.needed == frozenset()
    assert reasoning.bands[0].silent.startswith("no signal: right in 25 [")
    assert any(
        one.startswith("No signal: sums when it picks a letter: right in 25 [")
        for one in answer.not_shown
    )
    assert "No layer is shown to be spare." in answer.not_shown


@pytest.mark.parametrize("is_swept", [True, False])
def test_a_model_that_guesses_everywhere_gets_no_strip_of_shades(is_swept: bool) -> None:
    plan = replace(TWO, silent=tuple((task, p) for task, _ in TWO.tasks for p in TWO.protocols))
    table = synthetic.records(plan)
    asked = table if is_swept else pd.DataFrame(table.loc[table["kind"] == INTACT])
    run = run_tables([AblationResult(asked, synthetic.facts(plan))])
    found = first_screen(run, findings_from_tables(run))
    assert found.headline == "tiny <b>model</b> guesses. Nothing can be said about its layers here."
    assert all(band.silent for block in found.blocks for band in block.bands)
    assert any(line.startswith("More items alone ") for line in found.not_shown)
    assert len(set(found.not_shown)) == len(found.not_shown)
    assert not any(claim.kind == SILENT for claim in found.claims)


@pytest.mark.parametrize("n_layers", [1, 30, 53, 54, 200])
def test_the_text_fits_a_terminal(n_layers: int, answer: Answer) -> None:
    columns = tuple(
        StripColumn(i, str(i), str(i) * (i % 10 == 0), "", False) for i in range(n_layers)
    )
    text = answer_text(replace(answer, columns=columns), None)
    lines = text.splitlines()
    assert len(lines) <= MOST_LINES
    assert max(map(len, lines)) <= WIDTH
    assert "Knowledge" in text


def test_the_text_has_a_mark_under_each_planted_layer(answer: Answer) -> None:
    lines = answer_text(answer, None).splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("Knowledge"))
    shades, marks = lines[at], lines[at + 2]
    column = 26 + 2 * 5
    assert shades[column] == "█"
    assert marks[column] == "◆"
    assert marks[26 + 2 * 2] == "•"


def test_stacks_of_an_encoder_decoder_stand_apart() -> None:
    table = synthetic.records(replace(TWO, n_layers=8))
    facts = synthetic.facts(replace(TWO, n_layers=8))
    facts = facts.model_copy(
        update={"model": facts.model.model_copy(update={"n_encoder_layers": 5})}
    )
    run = run_tables([AblationResult(table, facts)])
    columns = first_screen(run, findings_from_tables(run)).columns
    assert [column.stack for column in columns] == ["encoder"] * 5 + ["decoder"] * 3
    assert [column.layer for column in columns if column.starts_stack] == [5]
    assert columns[5].name == "decoder.0"
    assert columns[5].label == "0"


@pytest.mark.long
def test_layers_that_were_not_changed_have_no_column(run: RunTables) -> None:
    table = synthetic.records(TWO)
    kept = table["layer"].isna() | table["layer"].isin([2, 5])
    some = run_tables([AblationResult(pd.DataFrame(table.loc[kept]), synthetic.facts(TWO))])
    columns = first_screen(some, findings_from_tables(some)).columns
    assert [column.layer for column in columns] == [2, 5]


def test_the_page_opens_with_the_answer(run: RunTables) -> None:
    page = report(AblationResult(run.tables["records"], run.facts))
    text = unescape(page.html)
    assert re.search(r"<h1>Look-up and facts depend on .* need layer 2\.</h1>", text)
    assert '<details class="part" open>' not in text
    assert text.index("<h1>") < text.index('class="strip"') < text.index('class="part"')
    assert page.text.splitlines()[0].startswith("tiny <b>model</b>")


@pytest.mark.long
def test_the_first_screen_of_a_saved_run_reads_no_items(tmp_path, monkeypatch) -> None:
    result = AblationResult(synthetic.records(TWO), synthetic.facts(TWO))
    result.save(tmp_path / "run")

    def read(*_: object) -> pd.DataFrame:
        raise AssertionError("items are for the page alone")

    monkeypatch.setattr("layerwise.analyses.ablation.tables.questions.read_questions", read)
    assert "Not shown: " in report_from_folders(tmp_path / "run").text
