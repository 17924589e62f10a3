"""The whole profile, from the user's own questions and model folder to the report."""

from __future__ import annotations

import contextlib
import html
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

import layerwise as lw
from layerwise import results
from layerwise.analyses import execute
from layerwise.errors import UserError
from layerwise.models import load_model
from layerwise.models.organisms.layout import WiredLayout
from layerwise.profiling.api import profile
from layerwise.report import Report
from layerwise.runs.progress import LineMeter
from layerwise.storage.estimates import table_from_estimates
from layerwise.storage.parquet import read_table
from layerwise.storage.schemas import LAYOUTS
from tests import analysis, commands
from tests.analysis import solved_file, with_preferred_answers, word_task, write_jsonl
from tests.cases import in_long_runs
from tests.commands import model_folder, run_cleanly
from tests.models.real import smollm2
from tests.models.tiny import tiny_model
from tests.planted import small_model, small_task

pytestmark = pytest.mark.drawn

TABLES = ["records", "lens", "prediction_depth", "estimates", "left_out"]


PROTOCOLS = ("continuation", "generate")


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("profile")
    solved_file(tiny_model("llama"), root / "solved.jsonl", 40, capability="retrieval")
    write_jsonl(root / "random.jsonl", word_task(12, "random", 9).items, capability="reasoning")
    return root


@pytest.fixture(scope="module")
def command_output(root) -> str:
    """A profile made by the command line, and what it said."""
    return run_cleanly(
        "profile", model_folder(), "--task", root / "solved.jsonl", "--task",
        root / "random.jsonl", "--fewshot", 0, "--protocol", "continuation", "--protocol",
        "generate", "--out", root / "run",
    )  # fmt: skip


@pytest.fixture(scope="module")
def model():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAYERWISE_CACHE", commands.environment()["LAYERWISE_CACHE"])
        return load_model(model_folder())


def test_everything_is_there_and_can_be_read(root, command_output):
    folder = root / "run"
    names = {path.name for path in folder.iterdir()}
    files = {"run.json", "requests.jsonl", "report.html", "figures"}
    files |= {"claims.json", "claims.parquet"}
    assert names == files | {f"{name}.parquet" for name in TABLES}
    for name in TABLES:
        columns = list(pd.read_parquet(folder / f"{name}.parquet").columns)
        if name in ("records", "lens"):
            assert columns == analysis.documented_columns(f"{name}.parquet")
    estimates, _ = read_table(folder / "estimates.parquet", "estimates")
    for result in lw.load(folder):
        frames = {name: getattr(result, name) for name in result.tables} | result.derived_tables()
        for name in frames.keys() & LAYOUTS.keys():
            found, frame = table_from_estimates(estimates, name), frames[name]
            for column, wanted in LAYOUTS[name].only.items():
                frame = frame.loc[frame[column].isin(wanted)].reset_index(drop=True)
            pd.testing.assert_frame_equal(found, frame)
    kinds = [type(result).__name__ for result in lw.load(folder)]
    assert kinds == ["AblationResult", "LensResult", "EmergenceResult"]
    pictures = sorted(path.name for path in (folder / "figures").iterdir())
    assert {Path(name).suffix for name in pictures} == {".png", ".svg"}
    for picture in (folder / "figures").iterdir():
        start = picture.read_bytes()[:8]
        assert start.startswith(b"\x89PNG" if picture.suffix == ".png" else b"<?xml")
    assert {name.split(".")[0] for name in pictures} >= {
        "role_map_skip_layer",
        "accuracy_skip_layer",
        "lens_continuation",
        "emergence",
    }
    facts = json.loads((folder / "run.json").read_text())
    assert {entry["analysis"] for entry in facts["work"]} == {
        "ablation",
        "logit lens",
        "plain forwards, timed for comparison",
    }
    assert facts["settings"]["analysis"] == "profile"


def test_what_is_said_is_in_the_tables(root, command_output):
    lines = command_output.splitlines()
    assert re.fullmatch(r"Took [\d.]+ (s|min)\.", lines.pop(0))
    assert re.match(r"Work: \d+\.\d times fewer token-passes", lines[0])
    assert re.match(r"That was some \d+ times faster than one plain hooked", lines.pop(1))
    assert lines.pop(1).startswith("Token-passes planned: ")
    assert lines[-1] == f"Report: {root / 'run' / 'report.html'}"
    estimates = pd.read_parquet(root / "run" / "estimates.parquet")
    sure = lw.results.select(estimates, "capability", hypothesis="needed", established=True)
    asked = lw.results.select(
        estimates, "accuracy", hypothesis="needed", layer=sure["layer"].tolist()
    )
    worst = asked.sort_values("estimate").iloc[0]
    layer = int(worst["layer"])
    lost = sure.set_index("layer")["estimate"][layer]
    intact = worst["estimate"] - lost
    at = next(i for i, line in enumerate(lines) if line.startswith("- "))
    assert " ".join(line.strip() for line in lines[at : at + 2]) == (
        f"- Retrieval needs layers 0–2 when it chooses. Without {layer}, accuracy falls "
        f"from {100 * intact:.0f} to {100 * worst['estimate']:.0f} %. (established)"
    )
    page = html.unescape((root / "run" / "report.html").read_text("utf-8"))
    claims = json.loads((root / "run" / "claims.json").read_text("utf-8"))
    assert claims
    assert all(claim["short"] in page for claim in claims)


def test_layers_are_changed_only_where_there_is_signal(root, command_output):
    records = lw.load(root / "run")[0].records
    signal = lw.load(root / "run")[0].signal().set_index(["task", "protocol"])
    assert signal["signal"].to_dict() == {
        (task, protocol): (task, protocol) == ("solved", "continuation")
        for task in ("solved", "random")
        for protocol in PROTOCOLS
    }
    for (task, protocol), rows in records.groupby(["task", "protocol"]):
        swept = (task, protocol) == ("solved", "continuation")
        changed = rows.loc[rows["kind"] == "skip", "intervention"]
        assert changed.nunique() == (3 if swept else 0)
        assert rows["item"].nunique() == (40 if task == "solved" else 12)
    left_out = pd.read_parquet(root / "run" / "left_out.parquet")
    assert {("random", "continuation"), ("solved", "generate"), ("random", "generate")} <= set(
        zip(left_out["task"], left_out["protocol"], strict=True)
    )


@pytest.mark.long
@pytest.mark.usefixtures("blank_pictures")
def test_the_function_finds_the_same(root, command_output, model):
    names = [str(root / "solved.jsonl"), str(root / "random.jsonl")]
    found = profile(model, names, PROTOCOLS, fewshot=0, progress=False)
    saved = lw.load(root / "run")
    assert [type(result) for result in found.results] == [type(result) for result in saved]
    for one, other in zip(found.results, saved, strict=True):
        for name in one.tables:
            pd.testing.assert_frame_equal(getattr(one, name), getattr(other, name))
    assert found.path is None
    assert found.report.text in command_output


def no_model(*_, **__):
    raise AssertionError("a model was asked for")


@pytest.mark.long
def test_the_report_is_made_again_without_a_model(root, command_output, tmp_path, monkeypatch):
    monkeypatch.setattr("layerwise.models.load_model", no_model)
    monkeypatch.setattr("layerwise.sweep.walk.engine_run.block_runners", no_model)
    page = (root / "run" / "report.html").read_bytes()
    again = run_cleanly("report", root / "run", "--out", tmp_path / "again.html")
    assert (tmp_path / "again.html").read_bytes() == page
    assert again.splitlines()[:-1] == command_output.splitlines()[-len(again.splitlines()) : -1]
    figures = commands.contents(root / "run" / "figures")
    assert commands.contents(tmp_path / "figures") == figures


@pytest.mark.long
@pytest.mark.usefixtures("blank_pictures")
def test_a_finished_profile_is_read_and_not_made_again(
    root, command_output, model, tmp_path, monkeypatch
):
    monkeypatch.setattr("layerwise.sweep.walk.engine_run.block_runners", no_model)
    folder = shutil.copytree(root / "run", tmp_path / "run")
    (folder / "report.html").unlink()
    tables = [path for path in folder.glob("*.parquet") if path.stem != "claims"]
    before = [path.stat().st_mtime_ns for path in tables]
    names = [str(root / "solved.jsonl"), str(root / "random.jsonl")]
    found = profile(model, names, PROTOCOLS, fewshot=0, out=folder, progress=False)
    assert [path.stat().st_mtime_ns for path in tables] == before
    assert found.path == folder / "report.html"
    assert found.report.text in command_output
    assert found.work["token_passes"] > 0


@pytest.mark.long
@pytest.mark.usefixtures("blank_pictures")
def test_a_run_without_any_depth_has_a_report(root, tmp_path):
    """Not all layers are changed, so that no curve runs over them and nothing can be placed."""
    options = ["--task", root / "solved.jsonl", "--fewshot", 0, "--protocol", "continuation"]
    run_cleanly("ablate", model_folder(), *options, "--layers", "0,2", "--out", tmp_path / "run")
    told = run_cleanly("report", tmp_path / "run")
    assert told.splitlines()[-1] == f"Report: {tmp_path / 'run' / 'report.html'}"
    found = lw.emergence(lw.load(tmp_path / "run"))
    assert found.emergence.empty
    with pytest.raises(UserError, match="There is nothing to draw"):
        found.plot()


@pytest.mark.long
@pytest.mark.usefixtures("blank_pictures")
@pytest.mark.parametrize("also", [("similarity", "removal", "head-scores"), *in_long_runs(((),))])
def test_all_work_is_counted_before_the_first_piece_and_done_at_the_end(model, monkeypatch, also):
    shares, totals = [], []

    class Told(LineMeter):
        def add_work(self, amount):
            super().add_work(amount)
            shares.append(self.share)
            totals.append(self.total)

    told = Told()
    monkeypatch.setattr(execute, "meter", lambda _: contextlib.nullcontext(told))
    tasks = [with_preferred_answers(model, word_task(16)), word_task(16, "random", seed=9)]
    profile(model, tasks, ("continuation", "generate"), also=also)
    assert shares[0] < 0.5
    assert shares == sorted(shares)
    assert told.finished == pytest.approx(told.total)
    if not also:
        assert max(totals) <= totals[0] * (1 + 1e-9)


@pytest.mark.long
@pytest.mark.usefixtures("blank_pictures")
def test_exhaustive_changes_layers_everywhere(model):
    task = word_task(6, seed=3)
    found = profile(model, task, exhaustive=True, progress=False)
    records = found.results[0].records
    changed = records.loc[records["kind"] == "skip"]
    assert (changed.groupby("protocol")["intervention"].nunique() == 3).all()
    sparing = profile(model, task, progress=False).results[0].records
    key = ["intervention", "protocol", "item"]
    one, other = records.set_index(key), sparing.set_index(key)
    pd.testing.assert_frame_equal(one.loc[other.index], other, rtol=0, atol=1e-4)
    assert set(sparing["kind"]) - {"guesser", "guesser at chance"} == {"intact", "blind"}


@pytest.mark.long
@pytest.mark.usefixtures("blank_pictures")
def test_random_weights_get_no_verdicts(model):
    found = profile(model, word_task(24, seed=1), progress=False)
    assert not found.results[0].effects()["significant"].any()
    assert len(found.results[-1].emergence) == 0
    told = " ".join(finding.full for finding in found.report.findings)
    assert "Nothing is said of what layers cost" in told
    assert "costs" not in told
    drawn = [result for result in found.results if len(result.to_pandas())]
    assert [type(result).__name__ for result in drawn] == ["AblationResult", "LensResult"]
    for result in (found.results[0], found.results[-1]):
        with pytest.raises(UserError, match="There is nothing to draw, expected a result with"):
            result.plot()
    assert drawn[1].plot().get_axes()


@pytest.mark.long
@pytest.mark.usefixtures("blank_pictures")
def test_pairs_are_patched_where_the_model_is_better_than_blind():
    task = small_task("retrieval", 16)
    unsolved = replace(task, items=task.items[:2], name="too few to tell")
    model = small_model(WiredLayout())
    found = profile(model, [task, unsolved], "continuation", pairs=2, progress=False)
    patching = next(r for r in found.results if isinstance(r, results.PatchingResult))
    assert set(patching.patching["task"]) == {"wired-lookup"}
    assert patching.patching["item"].nunique() == 2
    assert set(patching.patching["site"]) == {"resid_pre"}
    assert "Activation patching" in found.report.html


@pytest.mark.usefixtures("blank_pictures")
# By day test_verifying deletes the folders of other runs.
@pytest.mark.parametrize("write", in_long_runs(("save_figures",), ("save",)))
def test_a_profile_whose_folder_is_deleted_ends_in_a_sentence_and_begins_again(
    model, tmp_path, monkeypatch, write
):
    task, out, real = word_task(4), tmp_path / "run", getattr(Report, write)

    def deleting(self: Report, path: Path) -> object:
        assert (out / "run.json").exists()
        shutil.rmtree(out)
        return real(self, path)

    with monkeypatch.context() as patch:
        patch.setattr(Report, write, deleting)
        with pytest.raises(UserError, match="was deleted or moved while the run wrote to it"):
            profile(model, task, "continuation", out=out, progress=False)
    assert not out.exists()
    profile(model, task, "continuation", out=out, progress=False)
    assert (out / "report.html").exists()


@pytest.mark.long
@pytest.mark.smollm2
def test_the_real_model_in_small():
    model = smollm2()
    found = profile(model, "facts", "continuation", limit=8, fewshot=1, pairs=1, progress=False)
    assert [type(r).__name__ for r in found.results][:2] == ["AblationResult", "LensResult"]
    assert found.results[0].signal()["signal"].any()
    assert found.work["token_passes"] < found.work["brute_force_token_passes"] / 2
