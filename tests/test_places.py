"""Places that cannot be written to are refused before anything is read, computed or drawn."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

import layerwise as lw
from layerwise.analyses.comparison import api as comparing
from layerwise.cli.commands import COMMANDS
from layerwise.errors import UserError
from layerwise.ground.arguments import metadata
from layerwise.profiling import api as profiling
from layerwise.report import Report
from layerwise.storage.atomic_files import write_atomically
from layerwise.storage.places import (
    OutputFolder,
    refuse_unusable_file,
    refuse_unusable_folder,
    refuse_unusable_page,
)
from tests import commands
from tests.analysis import word_task
from tests.models.tiny import tiny_model

PROC = Path("/proc")
needs_proc = pytest.mark.skipif(not PROC.is_dir(), reason="needs /proc")
needs_pipes = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")


@pytest.fixture(autouse=True)
def nothing_begins(monkeypatch):
    """Nothing is read, planned or drawn in these tests."""

    def begun(*args, **options):
        raise AssertionError("work began")

    monkeypatch.setattr("layerwise.report.report_from_folders", begun)
    monkeypatch.setattr(comparing, "saved_runs", begun)
    monkeypatch.setattr(profiling, "prepare", begun)


@pytest.fixture
def read_only_disk(monkeypatch):
    """A disk that the system calls writable, as it does for root, and that is not."""

    def no_file(dir: Path):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(tempfile, "TemporaryFile", no_file)


@pytest.mark.parametrize(
    "refuse", [refuse_unusable_folder, refuse_unusable_file, refuse_unusable_page]
)
def test_a_place_is_tried_rather_than_believed(refuse, tmp_path, read_only_disk):
    with pytest.raises(UserError, match=r"Cannot write .*deep \(Read-only file system\): choose a"):
        refuse(tmp_path / "new" / "deep")


@needs_proc
def test_a_folder_of_the_system_is_refused_to_root_as_well():
    with pytest.raises(UserError, match=r"Cannot write /proc/page\.html"):
        refuse_unusable_file(PROC / "page.html")
    with pytest.raises(UserError, match="Cannot write /proc/run"):
        refuse_unusable_folder(PROC / "run")


def test_trying_leaves_nothing_behind(tmp_path):
    refuse_unusable_page(tmp_path / "new" / "page.html")
    assert not list(tmp_path.iterdir())


@needs_pipes
@pytest.mark.parametrize("write", [refuse_unusable_file, lambda path: write_atomically(path, b"")])
def test_a_device_or_pipe_is_refused_and_not_replaced(write, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(UserError, match="pipe is no file but a device or pipe, which would be rep"):
        write(pipe)
    assert pipe.is_fifo()


@needs_proc
def test_what_a_process_has_open_is_refused_whatever_it_is(tmp_path):
    """``/dev/stdout`` is a link into /proc, and its target a plain file where it is redirected."""
    with open(tmp_path / "opened", "wb") as file:
        link = tmp_path / "stdout"
        link.symlink_to(f"/proc/self/fd/{file.fileno()}")
        with pytest.raises(UserError, match="no file but a device or pipe"):
            refuse_unusable_file(link)
        assert link.is_symlink()


def blocked_page(folder: Path) -> str:
    (folder / "report.html").mkdir()
    (folder / "comparison.html").mkdir()
    return " is a folder: expected the name of the file to write"


def blocked_figures(folder: Path) -> str:
    (folder / "figures").write_text("")
    return "figures is a file: expected a folder for figures; choose another path."


@pytest.mark.parametrize("block", [blocked_page, blocked_figures])
@pytest.mark.parametrize("command", ["report", "compare", "profile"])
def test_commands_refuse_a_page_that_could_not_be_written(command, block, tmp_path):
    says = block(tmp_path)
    given: dict[str, list[object]] = {
        "report": [tmp_path],
        "compare": ["one", "other", "--out", tmp_path],
        "profile": ["smollm2-135m", "--out", tmp_path],
    }
    commands.assert_command_refused(command, *given[command], says=says, unchanged=tmp_path)


@pytest.mark.parametrize("place", ["new/page.html", "page.html"])
def test_a_report_is_refused_where_nothing_can_be_written(place, tmp_path, read_only_disk):
    out = tmp_path / place
    commands.assert_command_refused(
        "report", tmp_path, "--out", out, says=f"Cannot write {out}", unchanged=tmp_path
    )


@pytest.mark.parametrize(
    "name", ["run.json", "records.parquet", "comparison.json", "training.json", "requests.jsonl"]
)
def test_a_report_does_not_replace_what_it_is_made_of(name, tmp_path):
    (tmp_path / name).write_text("results")
    says = f"{name} is no page that layerwise wrote, and would be replaced: choose another name, or"
    commands.assert_command_refused(
        "report", tmp_path, "--out", tmp_path / name, says=says, unchanged=tmp_path
    )
    with pytest.raises(UserError, match="is no page that layerwise wrote"):
        Report((), lambda: ("", {})).save(tmp_path / name)
    assert (tmp_path / name).read_text() == "results"


def test_a_profile_is_refused_in_python_before_it_begins(tmp_path):
    says = blocked_figures(tmp_path)
    with pytest.raises(UserError, match=says):
        lw.profile(tiny_model("llama"), word_task(4), out=tmp_path)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_analysis_reads_its_folder_as_one_to_write_to(name):
    module, _, function = COMMANDS[name].target.partition(":")
    found: Callable[..., object] = getattr(__import__(module, fromlist=[function]), function)
    out = vars(found)["arguments"].get("out")
    assert out is None or OutputFolder.__metadata__[0] in metadata(out.type)


def test_an_analysis_refuses_its_folder_before_its_tasks(tmp_path, read_only_disk):
    with pytest.raises(UserError, match="Cannot write"):
        lw.ablate(tiny_model("llama"), "no such task", out=tmp_path / "run")
