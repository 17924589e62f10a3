"""Whole replications of models whose truth is known, from weights to verdicts, files and page."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

import layerwise as lw
from layerwise.analyses.replication.api import select_claims, select_testable_tasks
from layerwise.analyses.replication.verdicts.claim import Verdict
from layerwise.analyses.replication.verdicts.evidence import Evidence
from layerwise.analyses.replication.verdicts.judge import judge
from layerwise.errors import UserError
from layerwise.models.organisms.layout import Spot, WiredLayout
from layerwise.models.organisms.wired import wired_model
from layerwise.results import ReplicationResult
from tests import commands
from tests.models.tiny import tiny_model
from tests.report.legible import assert_legible
from tests.stopping import stop_after

EARLY = WiredLayout(  # but for the second hop, which reasoning alone needs
    12, 2, previous=Spot(0, 0), look_up=Spot(2, 0), facts=Spot(1, 0), second_hop=Spot(9, 0),
    gate=Spot(11, 0),
)  # fmt: skip
LATE = WiredLayout(
    12, 2, previous=Spot(3, 0), look_up=Spot(4, 0), facts=Spot(10, 0), second_hop=Spot(5, 0),
    gate=Spot(11, 0),
)  # fmt: skip
CLAIMS = ("song-4", "song-5", "song-6", "men-1")


def verdicts(result: ReplicationResult) -> dict[str, str]:
    """Verdicts by claim and part."""
    rows = result.verdicts.to_dict("records")
    return {f"{row['claim']} {row['part']}".strip(): row["verdict"] for row in rows}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The folder of a whole run of a model whose early layers do everything."""
    out = tmp_path_factory.mktemp("runs") / "early"
    lw.replicate(wired_model(EARLY), CLAIMS, limit=24, out=out, progress=False)
    return out


@pytest.fixture(scope="module")
def late(tmp_path_factory) -> Path:
    """The folder of a model whose facts lie behind its second hop."""
    out = tmp_path_factory.mktemp("runs") / "late"
    lw.replicate(wired_model(LATE), CLAIMS, limit=24, out=out, progress=False)
    return out


def replication_in(folder: Path) -> ReplicationResult:
    """The replication of a run's folder."""
    return next(r for r in lw.load(folder) if isinstance(r, ReplicationResult))


def test_a_wired_model_gets_the_verdicts_of_its_layout(folder):
    told = verdicts(replication_in(folder))
    assert told["song-5 knowledge"] == Verdict.HOLDS  # the second hop lies behind the facts
    assert told["song-5 retrieval"] == Verdict.OPEN  # it is part of reasoning
    assert told["song-4 knowledge"] == Verdict.HOLDS
    assert told["song-4 retrieval"] == Verdict.HOLDS
    assert told["song-6"] == Verdict.NO_SIGNAL


@pytest.mark.long
def test_the_opposite_layout_gets_the_opposite_verdicts(late):
    told = verdicts(replication_in(late))
    assert told["song-5 knowledge"] == Verdict.OPPOSITE  # the facts lie behind the second hop
    assert told["song-4 knowledge"] == Verdict.OPPOSITE


@pytest.mark.long
def test_a_random_model_gets_no_verdict():
    model = tiny_model("gpt2")
    told = verdicts(lw.replicate(model, ["lad-1", "men-1"], limit=8, fewshot=0, progress=False))
    assert set(told.values()) <= {Verdict.NO_SIGNAL, Verdict.NOT_ASKED}


@pytest.mark.long
def test_a_run_that_was_stopped_goes_on_to_the_same_verdicts(folder, tmp_path):
    out = tmp_path / "stopped"
    with stop_after(2):
        lw.replicate(wired_model(EARLY), CLAIMS, limit=24, out=out, progress=False)
    lw.replicate(wired_model(EARLY), CLAIMS, limit=24, out=out, progress=False)
    whole, again = (replication_in(path) for path in (folder, out))
    pd.testing.assert_frame_equal(whole.verdicts, again.verdicts)
    pd.testing.assert_frame_equal(whole.verdict_numbers, again.verdict_numbers)


def test_a_finished_run_is_read_not_made_again(folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    before = {path.name: path.stat().st_mtime_ns for path in copy.iterdir()}
    again = lw.replicate(wired_model(EARLY), CLAIMS, limit=24, out=copy, progress=False)
    assert verdicts(again) == verdicts(replication_in(folder))
    assert {path.name: path.stat().st_mtime_ns for path in copy.iterdir()} == before


@pytest.mark.long
def test_the_verdicts_are_on_the_page_and_in_its_figures(folder):
    page = lw.report(lw.load(folder))
    html = page.html
    assert "Published claims" in html
    assert "Reasoning relies on deeper layers." in html
    names = set(page.figures)
    assert "verdicts" in names
    assert "verdict_song-5" in names
    assert html.index('class="lines"') < html.index('class="strip"')


@pytest.mark.long
def test_the_answer_counts_verdicts_and_lists_them(folder):
    page = lw.report(lw.load(folder))
    told = list(verdicts(replication_in(folder)).values())
    assert f"{told.count('holds')} hold" in " ".join(page.text.split())
    assert len(
        [line for line in page.text.splitlines() if line.startswith(("song", "men"))]
    ) == len(told)


@pytest.mark.long
def test_verdicts_of_two_models_stand_in_one_table(folder, late, tmp_path):
    comparison = lw.compare([folder, late])
    assert set(comparison.verdicts["run"]) == {"early", "late"}
    html = comparison.report().html
    assert html.index("Published claims") < html.index("Accuracy of the intact models")
    comparison.save(tmp_path / "both")
    again = lw.Comparison.load(tmp_path / "both").verdicts
    pd.testing.assert_frame_equal(again, comparison.verdicts)


@pytest.mark.long
def test_the_short_view_names_claims_and_verdicts(folder):
    result = replication_in(folder)
    assert "wired" in repr(result)
    shown = result._repr_html_()
    assert "song-5, knowledge" in shown
    assert "holds" in shown
    assert commands.run("show", folder).code == 0


def test_pictures_are_legible_at_both_widths(folder):
    from layerwise.analyses.replication.figures import verdict_numbers, verdict_table

    result = replication_in(folder)
    numbers = result.verdict_numbers.query("claim == 'song-5'")
    for width in (3.3, 6.9):
        assert_legible(verdict_table(result.verdicts, "a model", width))
        assert_legible(verdict_numbers(numbers, width=width))


def test_benchmarks_that_are_not_there_are_named(tmp_path):
    with pytest.raises(UserError, match="mmlu") as refused:
        lw.replicate(tiny_model("gpt2"), ["song-1", "lad-1"], scale="full", data=tmp_path)
    assert "hellaswag" in str(refused.value)


def test_a_claim_whose_benchmark_is_refused_does_not_stop_the_others():
    claims = select_claims(["song-1", "lad-1", "nepal-1"])
    tasks = {"song-1": ["benchmark:a", "facts"], "lad-1": ["facts"], "nepal-1": ["facts"]}

    def check(name: str, protocols: list[str]) -> None:
        assert protocols == ["letter", "continuation"]
        raise UserError(f"{name} is too long.")

    asked, reasons = select_testable_tasks(claims, tasks, False, check)
    assert asked == {"song-1": [], "lad-1": ["facts"], "nepal-1": []}
    assert set(reasons) == {"song-1", "nepal-1"}
    assert reasons["song-1"] == "benchmark:a is too long."
    assert "also_distilled" in reasons["nepal-1"]
    evidence = Evidence.from_cells([], lambda task, protocol: 0.25, 12, {}, reasons)
    told = judge(claims, evidence, asked)["verdicts"]
    told = told.set_index("claim")["verdict"]
    assert told["song-1"] == told["nepal-1"] == Verdict.NOT_ASKED


def test_data_belong_to_the_full_scale():
    model = tiny_model("gpt2")
    with pytest.raises(UserError, match="folder that holds them"):
        lw.replicate(model, "song-3", scale="full")
    with pytest.raises(UserError, match="reads no folder"):
        lw.replicate(model, "song-3", data=".")
    with pytest.raises(UserError, match="song-33"):
        lw.replicate(model, "song-33")


def test_a_table_names_no_file_and_breaks_no_page(folder, tmp_path):
    result = replication_in(folder)
    odd = {"claim": "../../x", "verdict": "</script><b>", "sentence": r"$\frac"}
    changed = replace(
        result,
        verdicts=pd.concat([result.verdicts, result.verdicts.head(1).assign(**odd)]),
        verdict_numbers=result.verdict_numbers.assign(claim="../../x"),
    )
    page = lw.report([changed])
    assert "verdicts" in page.figures
    assert not [name for name in page.figures if "x" in name]
    assert "</script><b>" not in page.html
    page.save_figures(tmp_path / "figures")
    assert {path.parent.name for path in tmp_path.rglob("*.png")} <= {"figures"}
