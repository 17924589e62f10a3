"""Runs that are killed or interrupted, and go on to the same tables."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from layerwise.analyses.ablation.api import ablate
from layerwise.errors import UserError
from layerwise.profiling.api import profile
from layerwise.report import Report
from layerwise.tasks import Task
from tests import commands
from tests.analysis import solved_by, solved_file, word_task, write_jsonl
from tests.forking import exit_code, forked, needs_fork
from tests.models.tiny import tiny_model

N_ITEMS, AT_ONCE = 28, 4


@pytest.fixture(scope="module")
def questions(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("questions") / "mine.jsonl"
    return write_jsonl(path, word_task(N_ITEMS, "mine").items)


@pytest.fixture(scope="module")
def command(questions) -> Iterator[list[object]]:
    """An ablation of seven pieces, so that it can be stopped between them."""
    asked = ["--task", questions, "--fewshot", "0", "--protocol", "letter", "--protocol"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("layerwise.analyses.ablation.job.ITEMS_AT_ONCE", AT_ONCE)
        yield ["ablate", commands.model_folder(), *asked, "generate", "--out"]


@pytest.fixture(scope="module")
def whole(command, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    commands.done(*command, folder)
    return folder


def stopped(command: list[object], folder: Path, how: signal.Signals) -> tuple[int, str, str]:
    """Start a run, stop it when some of its work is done, and say how it ended."""
    told = [folder.with_suffix(end) for end in (".out", ".err")]

    def work() -> int:
        ended = commands.run(*command, folder)
        for path, text in zip(told, (ended.out, ended.err), strict=True):
            path.write_text(text)
        return ended.code

    child = forked(work)
    deadline = time.monotonic() + 100
    while len(list(folder.glob("parts/records*"))) < 2 and time.monotonic() < deadline:
        assert os.waitpid(child, os.WNOHANG) == (0, 0)
        time.sleep(0.005)
    os.kill(child, how)
    code = exit_code(child)
    return code, *(path.read_text() if path.exists() else "" for path in told)


def assert_unfinished(folder: Path) -> None:
    assert 2 <= len(list(folder.glob("parts/records*"))) < N_ITEMS / AT_ONCE
    assert not (folder / "records.parquet").exists()


def assert_same_run(folder: Path, other: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        path.name for path in other.iterdir()
    )
    for path in folder.glob("*.parquet"):
        pd.testing.assert_frame_equal(
            pd.read_parquet(path), pd.read_parquet(other / path.name), check_exact=True
        )
    assert (folder / "requests.jsonl").read_bytes() == (other / "requests.jsonl").read_bytes()


@needs_fork
@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_records(command, whole, tmp_path):
    folder = tmp_path / "killed"
    code, _, _ = stopped(command, folder, signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert_unfinished(folder)
    kept = {path.name: path.stat().st_mtime_ns for path in folder.glob("parts/records*")}
    report = commands.run("report", folder)
    commands.assert_refused(report, "is not finished", "give the same command again")
    assert {p.name: p.stat().st_mtime_ns for p in folder.glob("parts/records*")} == kept
    commands.done(*command, folder)
    assert_same_run(folder, whole)


@needs_fork
@pytest.mark.slow
def test_an_interrupted_run_says_so_and_goes_on_to_the_same_records(command, whole, tmp_path):
    folder = tmp_path / "interrupted"
    code, out, err = stopped(command, folder, signal.SIGINT)
    assert code == 130
    assert out == ""
    assert err == (
        "layerwise: interrupted. If a folder was named (--out), the same command continues where "
        "it stopped.\n"
    )
    assert_unfinished(folder)
    assert not list(folder.rglob(".*"))
    refusal = commands.run(*command, folder, "--seed", 1)
    commands.assert_refused(refusal, "holds a run with other settings (seed was 0 and is now 1)")
    assert_unfinished(folder)
    commands.done(*command, folder)
    assert_same_run(folder, whole)


class StopError(Exception):
    """Stands for whatever may end a process."""


def stop_after(monkeypatch, writes: int) -> None:
    """Let the run end after so many parts."""
    from layerwise.results import RunFolder

    real, done = RunFolder.write_part, []

    def write_part(self, name, table):
        if len(done) == writes:
            raise StopError
        done.append(name)
        real(self, name, table)

    monkeypatch.setattr(RunFolder, "write_part", write_part)


def empty_report(results: object) -> Report:
    return Report((), lambda: ("", {}))


@pytest.fixture
def no_report(monkeypatch):
    """Drawing takes most of a small profile's time, and starts when all tables are written."""
    monkeypatch.setattr("layerwise.profiling.api.report", empty_report)


@pytest.fixture(scope="module")
def tasks() -> list[Task]:
    """One with signal and one without."""
    solved = solved_by(tiny_model("llama"), word_task(15, "solved"))
    return [solved, word_task(5, "unsolved", capability="reasoning")]


def small_profile(tasks: list[Task], folder: Path) -> None:
    profile(tiny_model("llama"), tasks, "continuation", out=folder, progress=False)


@pytest.fixture(scope="module")
def whole_profile(tasks, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "profile"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("layerwise.analyses.ablation.job.ITEMS_AT_ONCE", 6)
        patch.setattr("layerwise.profiling.api.report", empty_report)
        small_profile(tasks, folder)
    return folder


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize("writes", [3, 9, 15])
def test_a_profile_goes_on_wherever_it_was_stopped(
    tasks, whole_profile, tmp_path, monkeypatch, writes
):
    """Both parts of each piece: 4 of the intact model, 3 with layers skipped, 2 of the lens."""
    monkeypatch.setattr("layerwise.analyses.ablation.job.ITEMS_AT_ONCE", 6)
    with monkeypatch.context() as patch:
        stop_after(patch, writes)
        with pytest.raises(StopError):
            small_profile(tasks, tmp_path / "stopped")
    assert len(list((tmp_path / "stopped").glob("parts/*"))) == writes
    small_profile(tasks, tmp_path / "stopped")
    assert_same_run(tmp_path / "stopped", whole_profile)


def test_pieces_that_are_there_are_not_made_again(tmp_path, monkeypatch):
    model = tiny_model("llama")
    monkeypatch.setattr("layerwise.analyses.ablation.job.ITEMS_AT_ONCE", 4)
    task = word_task(12)
    with monkeypatch.context() as patch:
        stop_after(patch, 4)  # each piece has two parts, its records last
        with pytest.raises(StopError):
            ablate(model, task, "letter", out=tmp_path / "run", progress=False)
    swept = []
    from layerwise.runs import setup as _setup

    real = _setup.sweep
    monkeypatch.setattr(
        _setup, "sweep", lambda *args, **more: swept.append(args[2]) or real(*args, **more)
    )
    ablate(model, task, "letter", out=tmp_path / "run", progress=False)
    assert len(swept) == 2  # its items under their own questions, and under others
    assert len(swept[0]) == 4 * 3


@pytest.mark.parametrize("name", ["x" * 200, "名" * 60, "a b=c,d%20"])
def test_long_and_strange_names_can_be_kept(tmp_path, monkeypatch, name):
    items = tuple(replace(i, id=f"{'é' * 150} {n}") for n, i in enumerate(word_task(3).items))
    task = word_task(items=items, name=name)
    monkeypatch.setattr("layerwise.analyses.ablation.job.ITEMS_AT_ONCE", 1)
    model = tiny_model("gpt2")
    kept = ablate(model, task, "letter", out=tmp_path / "run", progress=False)
    pd.testing.assert_frame_equal(
        kept.records, ablate(model, task, "letter", progress=False).records
    )
    assert kept.records["item"].nunique() == 3


@pytest.fixture(scope="module")
def kept_profile(tmp_path_factory) -> tuple[Path, dict[str, bytes | None]]:
    """The folder of a small profile, and what is in it."""
    folder = tmp_path_factory.mktemp("runs") / "kept"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("layerwise.profiling.api.report", empty_report)
        profile(tiny_model("llama"), word_task(4), "continuation", out=folder, progress=False)
    return folder, commands.contents(folder)


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"seed": 1}, "seed was 0 and is now 1"),
        ({"pairs": 3}, "pairs was 16 and is now 3"),
        ({"exhaustive": True}, "only_with_signal was true and is now false"),
        ({"protocols": "letter"}, 'protocols was ["continuation"] and is now ["letter"]'),
        ({"limit": 2}, "(task words: 4 items -> 2 items; "),
    ],
)
def test_a_profile_with_other_settings_is_refused_by_their_name(kept_profile, options, told):
    folder, before = kept_profile
    given = {"protocols": "continuation", "out": folder}
    with pytest.raises(UserError) as refusal:
        profile(tiny_model("llama"), word_task(4), progress=False, **(given | options))
    assert "holds a run with other settings" in str(refusal.value)
    assert told in str(refusal.value)
    assert commands.contents(folder) == before


def test_another_model_in_the_folder_is_refused(tmp_path):
    path = solved_file(tiny_model("llama"), tmp_path / "mine.jsonl", 4)
    commands.done("ablate", commands.model_folder(), "--task", path, "--out", tmp_path / "run")
    other = commands.model_folder("other", seed=1)
    outcome = commands.run("ablate", other, "--task", path, "--out", tmp_path / "run")
    commands.assert_refused(outcome, "(model was ", "; the weights changed; ")


def test_the_same_weights_under_another_configuration_are_refused(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(commands.model_folder(), folder)
    path = solved_file(tiny_model("llama"), tmp_path / "mine.jsonl", 4)
    asked = ["ablate", folder, "--task", path, "--fewshot", 0, "--out", tmp_path / "run"]
    commands.done(*asked)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 0.1}))
    commands.assert_refused(commands.run(*asked), "other settings (the model's files changed)")
    settings = tmp_path / "run" / "run.json"
    run = json.loads(settings.read_text())
    del run["settings"]["source_hash"], run["files"]  # as earlier versions wrote it
    settings.write_text(json.dumps(run))
    commands.done(*asked)


@pytest.mark.parametrize("command", ["ablate", "lens"])
def test_sizes_that_decide_rounding_are_those_of_the_first_start(tmp_path, monkeypatch, command):
    """What is free, and what the package chooses, may be something else when a run goes on."""
    from layerwise.analyses.logit_lens.api import logit_lens

    make = {"ablate": ablate, "lens": logit_lens}[command]
    model, folder = tiny_model("llama"), tmp_path / "run"
    chosen = []
    for budget, at_once in ((2**30, 300), (2**32, 700)):
        monkeypatch.setattr(
            "layerwise.runs.setup.default_memory_budget", lambda device, b=budget: b
        )
        monkeypatch.setattr("layerwise.runs.setup.TOKENS_AT_ONCE", at_once)
        with monkeypatch.context() as patch:
            if not chosen:
                stop_after(patch, 1)
                with pytest.raises(StopError):
                    make(model, word_task(4), "continuation", out=folder, progress=False)
            else:
                make(model, word_task(4), "continuation", out=folder, progress=False)
        settings = json.loads((folder / "run.json").read_text())["settings"]
        chosen.append((settings["memory_budget"], settings["tokens_at_once"]))
    assert chosen == [(2**30, 300)] * 2
    make(model, word_task(4), "continuation", out=tmp_path / "new", progress=False)
    settings = json.loads((tmp_path / "new" / "run.json").read_text())["settings"]
    assert (settings["memory_budget"], settings["tokens_at_once"]) == (2**32, 700)


def test_a_budget_that_is_asked_for_must_be_that_of_the_run(tmp_path):
    model, folder = tiny_model("llama"), tmp_path / "run"
    options = {"out": folder, "progress": False}
    ablate(model, word_task(4), "letter", memory_budget=2**30, **options)
    with pytest.raises(UserError, match="memory_budget was 1073741824 and is now 2147483648"):
        ablate(model, word_task(4), "letter", memory_budget=2**31, **options)
    ablate(model, word_task(4), "letter", **options)
