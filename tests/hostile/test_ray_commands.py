"""Commands with workers: what a cluster has not is refused, a lost worker is replaced.

Takes minutes, and runs with ``make test-hostile`` only: each case starts a cluster. What needs none
is among ``wrong_calls``, other weights and pieces that fail are in ``tests/test_ray.py``.
"""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest
import torch

import layerwise as lw
from tests import commands
from tests.analysis import word_task, write_jsonl
from tests.hostile.limits import is_sentence

pytest.importorskip("ray")
pytestmark = pytest.mark.long
LOCAL = "local,actors=2"


@pytest.fixture
def asked(tmp_path) -> list[str]:
    """An ablation of several pieces."""
    task = write_jsonl(tmp_path / "mine.jsonl", word_task(100, "mine").items)
    return [
        "ablate", str(commands.model_folder()), "--task", str(task), "--fewshot", "0",
        "--protocol", "letter", "--protocol", "generate", "--memory-budget", "256MiB",
    ]  # fmt: skip


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
@pytest.mark.parametrize(
    ("cluster", "says"),
    [
        ("local,gpus=1", "1 worker(s) of 1 processor(s) and 1 GPU(s) each do not fit on any"),
        ("local,actors=1,device=cuda", "Ray has no worker left for this run: on "),
    ],
)
def test_gpus_that_no_machine_has_are_refused(asked, tmp_path, cluster, says):
    ended = commands.process(*asked, "--out", tmp_path / "run", "--ray", cluster)
    assert ended.code == 2
    assert "Traceback" not in ended.err + ended.out
    last = ended.err.splitlines()[-1]
    assert last.startswith(f"layerwise: {says}"), ended.err
    assert is_sentence(last.removeprefix("layerwise: "))


def workers_of(process: psutil.Process) -> list[psutil.Process]:
    found = []
    for child in process.children(recursive=True):
        try:
            if child.cmdline()[:1] and child.cmdline()[0].startswith("ray::RayWorker"):
                found.append(child)
        except psutil.Error:
            continue
    return found


def test_a_worker_killed_under_a_command_is_told_and_leaves_the_same_tables(asked, tmp_path):
    commands.done(*asked, "--out", tmp_path / "whole")
    out, told = tmp_path / "run", tmp_path / "told.txt"
    with told.open("w") as errors:
        child = subprocess.Popen(
            [*commands.COMMAND, *asked, "--out", str(out), "--ray", LOCAL],
            env=commands.environment(), stdout=subprocess.DEVNULL, stderr=errors,
        )  # fmt: skip
        killed, deadline = 0, time.monotonic() + 240
        while child.poll() is None and time.monotonic() < deadline and not killed:
            if list(out.glob("parts/records*.part")):
                for worker in workers_of(psutil.Process(child.pid)):
                    worker.kill()
                    killed += 1
            time.sleep(0.01)
        assert child.wait(timeout=240) == 0, told.read_text()
    assert killed
    lines = told.read_text().splitlines()
    assert all(line.startswith("layerwise: ") for line in lines), lines
    assert any("was lost; its piece is made again" in line for line in lines), lines
    pd.testing.assert_frame_equal(*(records(tmp_path / name) for name in ("whole", "run")))
    assert lw.verify(out).ok


def records(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder / "records.parquet")
