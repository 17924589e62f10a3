"""Runs that are killed or interrupted, and go on to the same tables."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from layerwise import results
from layerwise.analyses.ablation.api import ablate
from layerwise.errors import UserError
from layerwise.profiling.api import profile
from layerwise.report import Report
from layerwise.results import AblationResult, RunFolder, load
from layerwise.runs.checkpoints import table_rows
from layerwise.storage.parquet import frame
from layerwise.storage.places import PAGE_MARK
from layerwise.tasks import Task
from tests import commands, synthetic
from tests.analysis import solved_file, with_preferred_answers, word_task, write_jsonl
from tests.cases import in_long_runs
from tests.forking import exit_code, fork_work, needs_fork
from tests.models.tiny import tiny_model
from tests.stopping import stop_after

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
def uninterrupted_run(command, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    commands.run_cleanly(*command, folder)
    return folder


def stop_run(command: list[object], folder: Path, how: signal.Signals) -> tuple[int, str, str]:
    """Start a run, stop it when some of its work is done, and say how it ended."""
    told = [folder.with_suffix(end) for end in (".out", ".err")]

    def work() -> int:
        ended = commands.run(*command, folder)
        for path, text in zip(told, (ended.out, ended.err), strict=True):
            path.write_text(text)
        return ended.code

    child = fork_work(work)
    deadline = time.monotonic() + 100
    while len(list(folder.glob("parts/records*"))) < 2 and time.monotonic() < deadline:
        assert os.waitpid(child, os.WNOHANG) == (0, 0)
        time.sleep(0.005)
    os.kill(child, how)
    code = exit_code(child)
    return code, *(path.read_text() if path.exists() else "" for path in told)


def assert_run_unfinished(folder: Path) -> None:
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
def test_a_killed_run_goes_on_to_the_same_records(command, uninterrupted_run, tmp_path):
    folder = tmp_path / "killed"
    code, _, _ = stop_run(command, folder, signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert_run_unfinished(folder)
    kept = {path.name: path.stat().st_mtime_ns for path in folder.glob("parts/records*")}
    report = commands.run("report", folder)
    commands.assert_refused(report, "is not finished", "give the same command again")
    assert {p.name: p.stat().st_mtime_ns for p in folder.glob("parts/records*")} == kept
    commands.run_cleanly(*command, folder)
    assert_same_run(folder, uninterrupted_run)


@pytest.mark.long
@needs_fork
@pytest.mark.slow
def test_an_interrupted_run_says_so_and_goes_on_to_the_same_records(
    command, uninterrupted_run, tmp_path
):
    folder = tmp_path / "interrupted"
    code, out, err = stop_run(command, folder, signal.SIGINT)
    assert code == 130
    assert out == ""
    assert err == (
        "layerwise: interrupted. If a folder was named (--out), the same command continues where "
        "it stopped.\n"
    )
    assert_run_unfinished(folder)
    assert not list(folder.rglob(".*"))
    refusal = commands.run(*command, folder, "--seed", 1)
    commands.assert_refused(refusal, "holds a run with other settings (seed was 0 and is now 1)")
    assert_run_unfinished(folder)
    commands.run_cleanly(*command, folder)
    assert_same_run(folder, uninterrupted_run)


def empty_report(results: object) -> Report:
    return Report((), lambda: (PAGE_MARK, {}))


@pytest.fixture
def no_report(monkeypatch):
    """Drawing takes most of a small profile's time, and starts when all tables are written."""
    monkeypatch.setattr("layerwise.profiling.api.report", empty_report)


@pytest.fixture(scope="module")
def tasks() -> list[Task]:
    """One with signal and one without."""
    solved = with_preferred_answers(tiny_model("llama"), word_task(15, "solved"))
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


@pytest.mark.long
@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize("writes", [9, *in_long_runs((3,), (15,))])
def test_a_profile_goes_on_wherever_it_was_stopped(
    tasks, whole_profile, tmp_path, monkeypatch, writes
):
    """Both parts of each piece: 4 of the intact model, 3 with layers skipped, 2 of the lens."""
    monkeypatch.setattr("layerwise.analyses.ablation.job.ITEMS_AT_ONCE", 6)
    with stop_after(writes):
        small_profile(tasks, tmp_path / "stopped")
    assert len(list((tmp_path / "stopped").glob("parts/*"))) == writes
    small_profile(tasks, tmp_path / "stopped")
    assert_same_run(tmp_path / "stopped", whole_profile)


@pytest.mark.long
def test_pieces_that_are_there_are_not_made_again(tmp_path, monkeypatch):
    model = tiny_model("llama")
    monkeypatch.setattr("layerwise.analyses.ablation.job.ITEMS_AT_ONCE", 4)
    task = word_task(12)
    with stop_after(4):  # each piece has two parts, its records last
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


@pytest.mark.parametrize("name", ["名" * 60, *in_long_runs(("x" * 200,), ("a b=c,d%20",))])
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
        ({"pairs": 3}, "pairs was 16 and is now 3"),
        ({"exhaustive": True}, "only_with_signal was true and is now false"),
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
    commands.run_cleanly(
        "ablate", commands.model_folder(), "--task", path, "--out", tmp_path / "run"
    )
    other = commands.model_folder("other", seed=1)
    outcome = commands.run("ablate", other, "--task", path, "--out", tmp_path / "run")
    commands.assert_refused(outcome, "(model was ", "; the weights changed; ")


@pytest.mark.long
def test_the_same_weights_under_another_configuration_are_refused(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(commands.model_folder(), folder)
    path = solved_file(tiny_model("llama"), tmp_path / "mine.jsonl", 4)
    asked = ["ablate", folder, "--task", path, "--fewshot", 0, "--out", tmp_path / "run"]
    commands.run_cleanly(*asked)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 0.1}))
    commands.assert_refused(commands.run(*asked), "other settings (the model's files changed)")


@pytest.mark.parametrize("command", ["ablate", *in_long_runs(("lens",))])
def test_sizes_that_decide_rounding_are_those_of_the_first_start(tmp_path, monkeypatch, command):
    """Free memory, and what the package chooses, may be something else when a run goes on."""
    from layerwise.analyses.logit_lens.api import logit_lens

    make = {"ablate": ablate, "lens": logit_lens}[command]
    model, folder = tiny_model("llama"), tmp_path / "run"
    chosen = []
    for budget, at_once in ((2**30, 300), (2**32, 700)):
        monkeypatch.setattr(
            "layerwise.runs.setup.default_memory_budget", lambda device, b=budget: b
        )
        monkeypatch.setattr("layerwise.runs.setup.TOKENS_AT_ONCE", at_once)
        with nullcontext() if chosen else stop_after(1):
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


@pytest.fixture
def ablation():
    return synthetic.small_ablation()


def full_disk(path):
    """Make the next atomic write of ``path`` go to a device that is full."""
    (path.parent / f".{path.name}.{os.getpid()}.tmp").symlink_to("/dev/full")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_told_and_leaves_nothing(ablation, tmp_path, monkeypatch):
    ablation.save(tmp_path)
    # saving first clears what other processes left, which would clear the test's link too
    monkeypatch.setattr("layerwise.storage.base.remove_temporaries", lambda folder: None)
    before = (tmp_path / "records.parquet").read_bytes()
    full_disk(tmp_path / "records.parquet")
    with pytest.raises(UserError, match=r"No space left to write .*records\.parquet: free some"):
        ablation.save(tmp_path)
    assert (tmp_path / "records.parquet").read_bytes() == before
    assert not list(tmp_path.glob(".*"))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_at_the_start_leaves_an_empty_folder(tmp_path):
    full_disk(tmp_path / "run.json")
    # opening first clears what other processes left, which would clear the test's link too
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("layerwise.runs.folder.remove_temporaries", lambda folder: None)
        with pytest.raises(UserError, match="No space left"):
            RunFolder.open(tmp_path, {})
    assert not list(tmp_path.iterdir())


def no_file(dir):
    raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(dir))


def test_unwritable_folders_are_told(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="is a file: expected a folder"):
        RunFolder.open(tmp_path / "file", {})
    with pytest.raises(UserError, match="Cannot write"):
        RunFolder.open(tmp_path / "file" / "below", {})
    monkeypatch.setattr(tempfile, "TemporaryFile", no_file)
    with pytest.raises(
        UserError, match=r"Cannot write .*locked \(Read-only file system\): choose a"
    ):
        RunFolder.open(tmp_path / "locked", {})


def test_a_path_below_a_file_cannot_be_saved_to(ablation, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="Cannot write"):
        ablation.save(tmp_path / "file" / "below")


SETTINGS = {"model": "made-up", "tasks": ("keys", "sums"), "limit": 5}


def test_parts_and_finish(ablation, tmp_path):
    with RunFolder.open(tmp_path / "a" / "b", SETTINGS) as folder:
        assert not folder.has_part("keys/letter: 1")
        folder.write_part("keys/letter: 1", ablation.records)
        assert folder.has_part("keys/letter: 1")
        part = folder.read_part("keys/letter: 1")
        pd.testing.assert_frame_equal(
            AblationResult(part, ablation.facts).records, ablation.records
        )
        assert not folder.finished
        with pytest.raises(UserError, match="is not finished"):
            load(folder.path)
        ablation.save(folder.path)
        assert not folder.finished
        folder.finish(ablation.facts)
        assert folder.finished
    assert not (folder.path / "parts").exists()
    assert not list(folder.path.glob(".*"))
    facts = results.Facts.model_validate_json((folder.path / "run.json").read_text())
    assert facts.settings == {"model": "made-up", "tasks": ["keys", "sums"], "limit": 5}
    assert len(load(folder.path)) == 1
    with RunFolder.open(folder.path, SETTINGS) as again:
        assert again.finished


def test_parts_without_any_text_can_be_joined(tmp_path):
    rows = {"intervention": "intact", "kind": "intact", "task": "t", "capability": "knowledge",
            "item": "i", "protocol": "letter", "correct": True}  # fmt: skip
    first, second = frame("records", [rows]), frame("records", [rows | {"layer": 2}])
    with RunFolder.open(tmp_path, {}) as folder:
        folder.write_part("1", first)
        folder.write_part("2", second)
        joined = pd.concat([folder.read_part("1"), folder.read_part("2")], ignore_index=True)
    assert joined.dtypes.equals(first.dtypes)


def test_other_settings_are_refused_by_name(tmp_path):
    RunFolder.open(tmp_path, SETTINGS).close()
    RunFolder.open(tmp_path, SETTINGS).close()
    changed = SETTINGS | {"limit": 6, "tasks": ("keys",), "seed": 1}
    with pytest.raises(UserError) as told:
        RunFolder.open(tmp_path, changed)
    assert str(told.value) == (
        f"{tmp_path} holds a run with other settings (limit was 5 and is now 6; seed was null and "
        'is now 1; tasks was ["keys", "sums"] and is now ["keys"]): expected the same settings; '
        "choose another folder, or delete this one to start afresh."
    )
    RunFolder.open(tmp_path, SETTINGS).close()


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match=r"holds other files \(thesis\.tex, \.\.\.\) and no run\."):
        RunFolder.open(tmp_path, {})
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_damaged_run_json_is_told(tmp_path):
    (tmp_path / "run.json").write_text('{"settings"')
    with pytest.raises(UserError, match="cannot be read"):
        RunFolder.open(tmp_path, {})


def test_a_second_run_in_the_same_folder_is_refused(tmp_path):
    with (
        RunFolder.open(tmp_path, SETTINGS),
        pytest.raises(UserError, match=rf"in use by another run \(process {os.getpid()}\)"),
    ):
        RunFolder.open(tmp_path, SETTINGS)
    RunFolder.open(tmp_path, SETTINGS).close()


def test_a_lock_left_by_a_dead_process_is_taken_over(tmp_path):
    RunFolder.open(tmp_path, SETTINGS).close()
    (tmp_path / ".lock").write_text("999999999")
    with RunFolder.open(tmp_path, SETTINGS):
        assert (tmp_path / ".lock").read_text() == str(os.getpid())


@needs_fork
def test_another_process_is_refused_while_one_runs(tmp_path):
    def second() -> int:
        with pytest.raises(UserError, match=rf"in use by another run \(process {os.getppid()}\)"):
            RunFolder.open(tmp_path, {"seed": 3})
        return 0

    with RunFolder.open(tmp_path, {"seed": 3}):
        assert exit_code(fork_work(second)) == 0


def test_rows_of_another_version_are_refused(ablation, tmp_path):
    """Also beside rows of this one, whose columns they would get without values."""
    with RunFolder.open(tmp_path, {}) as run:
        run.write_part("records one", ablation.records)
        run.write_part("records two", ablation.records.drop(columns=["cluster", "draw"]))
        assert len(table_rows(run, "records", ["records one"])) == len(ablation.records)
        with pytest.raises(UserError, match=r"Rows of records .* lack cluster, draw"):
            table_rows(run, "records", ["records one", "records two"])
