from __future__ import annotations

import errno
import os
import signal as signals
import tempfile

import numpy as np
import pandas as pd
import pytest

from layerwise import results
from layerwise.errors import UserError
from layerwise.results import AblationResult, RunFolder, load_results
from layerwise.runs.checkpoints import rows_of
from layerwise.storage.parquet import frame
from tests import synthetic
from tests.forking import exit_code, forked, needs_fork


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
    # saving first clears what other processes left, which would clear the test's link too
    monkeypatch.setattr("layerwise.storage.base.remove_temporaries", lambda folder: None)
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
            load_results(folder.path)
        ablation.save(folder.path)
        assert not folder.finished
        folder.finish(ablation.facts)
        assert folder.finished
    assert not (folder.path / "parts").exists()
    assert not list(folder.path.glob(".*"))
    facts = results.Facts.model_validate_json((folder.path / "run.json").read_text())
    assert facts.settings == {"model": "made-up", "tasks": ["keys", "sums"], "limit": 5}
    assert len(load_results(folder.path)) == 1
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


def test_a_damaged_part_counts_as_missing(ablation, tmp_path):
    with RunFolder.open(tmp_path, SETTINGS) as folder:
        folder.write_part("one", ablation.records)
        path = next((tmp_path / "parts").iterdir())
        whole = path.read_bytes()
        for damaged in (whole[:-10], whole[: len(whole) // 3], b""):
            path.write_bytes(damaged)
            assert not folder.has_part("one")
        with pytest.raises(UserError, match="damaged"):
            folder.read_part("one")
        flipped = bytearray(whole)
        flipped[len(whole) // 4] ^= 1
        path.write_bytes(bytes(flipped))
        assert not folder.has_part("one")
        path.write_bytes(whole)
        assert folder.has_part("one")


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


def run_in_parts(folder, kill_at, step, said):
    """One run in parts; it kills itself where it is told to, as an outsider would."""
    calls, real = [], getattr(os, step)

    def counted(*args):
        calls.append(args)
        if len(calls) == kill_at:
            os.kill(os.getpid(), signals.SIGKILL)
        return real(*args)

    setattr(os, step, counted)
    with RunFolder.open(folder, {"seed": 3}) as run:
        cells = []
        for name in ("keys", "sums"):
            if not run.has_part(name):
                rng = np.random.default_rng([3, len(name)])
                right = synthetic.planted(rng, 20, 4, (1,), 0.9, 0.2)
                run.write_part(name, synthetic.cell_records(right, name, "retrieval"))
                os.write(said, f"computed {name}\n".encode())
            cells.append(run.read_part(name))
        result = synthetic.ablation(*cells)
        result.save(folder)
        run.finish(result.facts)


def run_apart(folder, kill_at=0, step="fsync"):
    """Run it in a process forked from this one; its exit code and what it said."""
    reading, said = os.pipe()

    def work():
        try:
            run_in_parts(folder, kill_at, step, said)
        except UserError as error:
            os.write(said, str(error).encode())
            return 1
        return 0

    child = forked(work)
    os.close(said)
    with os.fdopen(reading) as pipe:
        told = pipe.read()
    return exit_code(child), told


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    assert run_apart(folder) == (0, "computed keys\ncomputed sums\n")
    return folder


# fsync is within a write, replace is just before the file takes its name; the writes are
# run.json, two parts, three tables, and run.json again
@needs_fork
@pytest.mark.slow
@pytest.mark.parametrize(
    ("kill_at", "step"), [(1, "fsync"), (2, "replace"), (3, "fsync"), (5, "fsync"), (7, "replace")]
)
def test_a_killed_run_goes_on_to_the_same_tables(whole, tmp_path, kill_at, step):
    broken = tmp_path / "broken"
    code, done = run_apart(broken, kill_at, step)
    assert code == -signals.SIGKILL, done
    code, again = run_apart(broken)
    assert code == 0, again
    assert (done + again).splitlines() == ["computed keys", "computed sums"]
    assert sorted(os.listdir(broken)) == sorted(os.listdir(whole))
    for name in ("records", "signal", "effects"):
        pd.testing.assert_frame_equal(
            pd.read_parquet(whole / f"{name}.parquet"), pd.read_parquet(broken / f"{name}.parquet")
        )


@needs_fork
def test_another_process_is_refused_while_one_runs(tmp_path):
    with RunFolder.open(tmp_path, {"seed": 3}):
        code, told = run_apart(tmp_path)
    assert code == 1
    assert f"in use by another run (process {os.getpid()})" in told


def test_rows_of_another_version_are_refused(ablation, tmp_path):
    """Also beside rows of this one, whose columns they would get without values."""
    with RunFolder.open(tmp_path, {}) as run:
        run.write_part("records one", ablation.records)
        run.write_part("records two", ablation.records.drop(columns=["cluster", "draw"]))
        assert len(rows_of(run, "records", ["records one"])) == len(ablation.records)
        with pytest.raises(UserError, match=r"Rows of records .* lack cluster, draw"):
            rows_of(run, "records", ["records one", "records two"])
