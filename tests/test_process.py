"""What the command line settles for its process."""

from __future__ import annotations

import ctypes
import platform
import subprocess
import sys

import pytest
import torch

from layerwise.cli import app
from layerwise.ground.process import keep_freed_memory

PAGES = """
import gc, resource, sys
import numpy as np
from layerwise.ground.process import collect_rarely, settle
collect_rarely()
if sys.argv[1] == "settled":
    settle()
def taken():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        np.ones(2**23)  # 64 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
taken()
print(taken(), gc.get_freeze_count(), gc.get_threshold()[0])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="asks for glibc's allocator")
def test_freed_memory_is_kept_and_what_is_loaded_is_not_looked_at_again() -> None:
    def run(how: str) -> list[int]:
        done = subprocess.run(
            [sys.executable, "-c", PAGES, how], capture_output=True, text=True, check=True
        )
        return [int(number) for number in done.stdout.split()]

    (new, unfrozen, threshold), (kept, frozen, same) = run("plain"), run("settled")
    assert kept < new / 10
    assert unfrozen == 0 < frozen
    assert threshold == same > 700


@pytest.mark.parametrize("error", [OSError, TypeError])
def test_without_such_an_allocator_nothing_is_done(monkeypatch, error) -> None:
    def no_library(name):
        raise error

    monkeypatch.setattr(ctypes, "CDLL", no_library)
    assert keep_freed_memory() is False
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert keep_freed_memory() is False


@pytest.fixture
def command_line(monkeypatch):
    """Runs a function as the command line would run a command; nothing else is settled."""
    for name in ("collect_rarely", "work_beside", "wait_briefly_beside_others"):
        monkeypatch.setattr(app, name, lambda: None)

    def run(command) -> None:
        monkeypatch.setattr(app, "app", lambda **_: command())
        app.main()

    return run


def test_a_device_without_memory_is_told_in_a_sentence(command_line, capsys) -> None:
    def command() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB.")

    with pytest.raises(SystemExit) as ended:
        command_line(command)
    assert ended.value.code == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("layerwise: the device ran out of memory: expected room for")
    assert "--memory-budget" in said
    assert said.endswith("(CUDA out of memory. Tried to allocate 2 GiB)")


def test_other_errors_of_torch_are_seen_whole(command_line) -> None:
    def command() -> None:
        raise RuntimeError("an error of its own")

    with pytest.raises(RuntimeError, match="of its own"):
        command_line(command)
