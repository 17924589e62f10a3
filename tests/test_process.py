"""What the command line settles for its process."""

from __future__ import annotations

import ctypes
import platform
import subprocess
import sys

import pytest

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
