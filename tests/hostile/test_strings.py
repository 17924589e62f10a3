"""Hostile texts wherever a model, a task, a file or a user can put one."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

import layerwise as lw
from layerwise.errors import UserError
from layerwise.presentation.lettering import label
from layerwise.report import Report, report, report_from_folders
from layerwise.results import AblationResult, LensResult, Result
from layerwise.tasks import load_task
from tests.cases import LONG
from tests.hostile.limits import is_sentence
from tests.hostile.strings import (
    FILE_NAMES,
    STRINGS,
    TEXTS,
    harm_in_page,
    harm_in_svg,
    squeeze_whitespace,
    text_of_page,
)
from tests.models.tiny import tiny_model
from tests.report import synthetic

pytestmark = pytest.mark.pictured

Count = Callable[[str, int], None]
COUNTED = "hostile strings in places"
CAPABILITIES = synthetic.CAPABILITIES
# Pictures of all texts take a minute; those that letters are not drawn from are among the few.
FEW = ("script", "mathematics", "escape")
DRAWN = [text for name, text in TEXTS.items() if LONG or name in FEW]
PLAN = synthetic.Plan(
    n_layers=2,
    n_items=10,
    tasks=tuple((text, CAPABILITIES[i % 4]) for i, text in enumerate(DRAWN)),
    protocols=("letter",),
    silent=((TEXTS["script"], "letter"),),
    critical={"letter": (0,)},
)


def results(plan: synthetic.Plan, name: str) -> list[Result]:
    """Results of a made-up run whose model, source, settings, items and tokens are such texts."""
    told = synthetic.facts(plan, settings={text: text for text in TEXTS.values()})
    model = told.model.model_copy(update={"name": name, "source": name, "attention": name})
    told = told.model_copy(update={"model": model, "versions": dict.fromkeys(TEXTS.values(), name)})
    lens = synthetic.lens(plan, protocols=("letter",))
    texts = list(TEXTS.values())
    lens["token"] = [texts[i % len(texts)] for i in range(len(lens))]
    lens["top_tokens"] = [texts[:5]] * len(lens)
    records = synthetic.records(plan).assign(generated=name, extracted=name)
    return [
        AblationResult(records, told),
        LensResult(lens, told),
    ]


@pytest.fixture(scope="module")
def hostile_results() -> list[Result]:
    return results(PLAN, "".join(TEXTS[name] for name in ("script", "mathematics", "escape")))


@pytest.fixture(scope="module")
def page(hostile_results: list[Result]) -> Report:
    return report(hostile_results if LONG else hostile_results[:1])


def test_a_page_shows_hostile_names_and_does_nothing_else(page: Report, count: Count):
    assert list(harm_in_page(page.html)) == []
    text = text_of_page(page.html)
    missing = [name for name, each in TEXTS.items() if squeeze_whitespace(each)[:20] not in text]
    assert missing == []
    count(COUNTED, 6 * len(TEXTS))


def test_labels_of_figures_are_letters_that_can_be_drawn(count: Count):
    for text in TEXTS.values():
        shown = label(text)
        assert shown.isprintable()
        assert len(shown) <= 60
        assert "$" not in shown.replace(r"\$", "")
    count(COUNTED, len(TEXTS))


def test_figures_of_hostile_names_are_well_formed_and_stay_in_their_folder(page, tmp_path, count):
    paths = page.save_figures(tmp_path / "figures")
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(paths)
    for path in paths:
        if path.suffix == ".svg":
            assert list(harm_in_svg(path.read_bytes())) == []
    count(COUNTED, len(paths) * len(DRAWN))


def test_notebooks_show_hostile_names_escaped(hostile_results: list[Result], count: Count):
    for result in hostile_results:
        assert list(harm_in_page(result._repr_html_())) == []
    count(COUNTED, len(hostile_results) * len(TEXTS))


def test_tables_keep_hostile_names_as_they_are(
    hostile_results: list[Result], tmp_path: Path, count: Count
):
    for result in hostile_results:
        result.save(tmp_path / "run")
        again = type(result).load(tmp_path / "run")
        for name in result.tables:
            pd.testing.assert_frame_equal(getattr(again, name), getattr(result, name))
        assert again.facts == result.facts
    count(COUNTED, sum(len(result.tables) for result in hostile_results) * len(TEXTS))


def write_questions(folder: Path, *rows: dict[str, object], name: str = "mine") -> Path:
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def row(text: str, index: int = 0) -> dict[str, object]:
    return {
        "id": f"{index} {text}", "question": text, "context": text, "answer": "Rome",
        "choices": ["Rome", f"key {text}"],
    }  # fmt: skip


@pytest.mark.parametrize("field", ["question", "answer", "context", "id", "choices"])
def test_a_line_of_questions_is_taken_as_it_is_or_told_in_a_sentence(tmp_path, field, count):
    for text in STRINGS.values():
        value = ["Rome", text] if field == "choices" else text
        line = {"question": "Where?", "answer": "Rome", field: value}
        refusal, kept = None, None
        try:
            (item,) = load_task(str(write_questions(tmp_path, line))).items
            kept = item.choices[1] if field == "choices" else getattr(item, field)
        except UserError as error:
            refusal = str(error)
        if refusal is None:
            assert kept == text.strip()
            kept.encode()  # what could not be written later is refused at once
        else:
            assert is_sentence(refusal)
    count(COUNTED, len(STRINGS))


@pytest.mark.long
def test_hostile_questions_are_asked_and_recorded_as_they_are(tmp_path: Path, count: Count):
    short = [t for t in TEXTS.values() if 0 < len(t.strip()) < 60 and "\0" not in t]  # refused
    path = write_questions(tmp_path, *(row(text, i) for i, text in enumerate(short)))
    lw.ablate(
        tiny_model("llama"), str(path), ["letter", "generate"], layers=[0], fewshot=0,
        out=tmp_path / "run", progress=False, memory_budget=2**28,
    )  # fmt: skip
    records = pd.read_parquet(tmp_path / "run" / "records.parquet")
    expected = [f"{i} {text}".strip() for i, text in enumerate(short)]
    assert list(dict.fromkeys(records["item"])) == expected
    lines = (tmp_path / "run" / "requests.jsonl").read_text("utf-8").split("\n")
    asked = [json.loads(line)["context"] for line in lines if line]
    assert all(any(text.strip() in context for context in asked) for text in short)
    count(COUNTED, 4 * len(short))


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> list[Path]:
    """Folders of runs whose names are such texts."""
    place = tmp_path_factory.mktemp("runs")
    small = replace(PLAN, tasks=PLAN.tasks[:1], silent=())
    folders = [place / name for name in FILE_NAMES.values()]
    for index, folder in enumerate(folders):
        told = synthetic.facts(small)
        model = told.model.model_copy(update={"hash": f"{index:064}"})
        told = told.model_copy(update={"model": model})
        AblationResult(synthetic.records(small, seed=index), told).save(folder)
    return folders


@pytest.mark.long
def test_folders_with_hostile_names_are_reported(runs: list[Path], tmp_path: Path, count: Count):
    shown = report_from_folders(runs)
    assert list(harm_in_page(shown.html)) == []
    paths = shown.save_figures(tmp_path / "figures")
    assert {path.parent for path in paths} == {tmp_path / "figures"}
    count(COUNTED, len(runs))


@pytest.mark.long
def test_folders_with_hostile_names_are_compared(runs: list[Path], tmp_path: Path, count: Count):
    compared = lw.compare(runs[:2], n_resamples=200)
    page = compared.save(tmp_path / "compared")
    assert list(harm_in_page(page.read_text("utf-8"))) == []
    count(COUNTED, 2)
