"""All analyses on four workers, workers and the starting process killed: the tables stay the same.

Takes minutes, and runs with ``make test-long`` only; ``test_ray`` holds the parts by day.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
import torch

import layerwise as lw
from tests import commands
from tests.analysis import word_task, write_jsonl
from tests.every import ANALYSES, LETTERS, MODEL, measured_tables
from tests.hostile.limits import is_sentence

pytest.importorskip("ray")
pytestmark = [
    pytest.mark.long,
    pytest.mark.filterwarnings(
        "ignore:subprocess .* is still running:ResourceWarning",
        "ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning",
    ),
]
KILLS, SEED = 10, int(os.environ.get("LAYERWISE_HOSTILE_SEED", "0"))


@pytest.fixture(scope="module")
def workers() -> Iterator[lw.RayExecutor]:
    with lw.RayExecutor(actors=4) as executor:
        yield executor


@pytest.fixture(scope="module")
def model() -> Any:
    return lw.load_model(MODEL)


@pytest.mark.parametrize("name", ANALYSES)
def test_every_analysis_has_the_tables_of_a_local_run_on_four_workers(name, workers, model):
    here, there = (
        measured_tables(ANALYSES[name](model)),
        measured_tables(ANALYSES[name](model, executor=workers)),
    )
    assert here.keys() == there.keys()
    for table, expected in here.items():
        # Four workers are four processes of one machine, with one thread each as this has.
        pd.testing.assert_frame_equal(there[table], expected, rtol=1e-5, atol=1e-6)


def cluster_workers(starting: psutil.Process) -> list[psutil.Process]:
    """The workers of the cluster that a process started."""
    found = []
    for process in starting.children(recursive=True):
        try:
            if process.cmdline()[:1] and process.cmdline()[0].startswith("ray::RayWorker"):
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_workers_killed_at_random_moments_leave_the_same_tables(tmp_path, model, monkeypatch):
    monkeypatch.setattr("layerwise.analyses.ablation.job.ITEMS_AT_ONCE", 2)
    asked: dict[str, Any] = {**LETTERS, "limit": 60}
    whole = lw.ablate(model, "all", **asked)
    rng, killed, stop = random.Random(SEED), [], threading.Event()

    def kill() -> None:
        while len(killed) < KILLS and not stop.wait(rng.uniform(0.5, 4.0)):
            there = cluster_workers(psutil.Process())
            if there:
                process = rng.choice(there)
                process.kill()
                killed.append(process.pid)

    killer = threading.Thread(target=kill, daemon=True)
    runs = 0
    with lw.RayExecutor(actors=4) as executor:
        killer.start()
        try:
            while len(killed) < KILLS:
                out = tmp_path / f"run-{runs}"
                found = lw.ablate(model, "all", **asked, out=out, executor=executor)
                pd.testing.assert_frame_equal(found.records, whole.records)
                assert lw.verify(out).ok
                runs += 1
        finally:
            stop.set()
            killer.join()
    print(f"{len(killed)} workers killed within {runs} run(s)")
    assert len(killed) == KILLS


def ablation_command(folder: Path, n_items: int) -> list[str]:
    """An ablation of several pieces."""
    task = write_jsonl(folder / "mine.jsonl", word_task(n_items, "mine").items)
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
def test_gpus_that_no_machine_has_are_refused(tmp_path, cluster, says):
    asked = ablation_command(tmp_path, 100)
    ended = commands.process(*asked, "--out", tmp_path / "run", "--ray", cluster)
    assert ended.code == 2
    assert "Traceback" not in ended.err + ended.out
    last = ended.err.splitlines()[-1]
    assert last.startswith(f"layerwise: {says}"), ended.err
    assert is_sentence(last.removeprefix("layerwise: "))


def test_a_worker_killed_under_a_command_is_told_and_leaves_the_same_tables(tmp_path):
    asked, out = ablation_command(tmp_path, 100), tmp_path / "run"
    commands.run_cleanly(*asked, "--out", tmp_path / "whole")
    child = subprocess.Popen(
        [*commands.COMMAND, *asked, "--out", str(out), "--ray", "local,actors=2"],
        env=commands.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    killed, deadline = 0, time.monotonic() + 240
    while child.poll() is None and time.monotonic() < deadline and not killed:
        if list(out.glob("parts/records*.part")):
            for worker in cluster_workers(psutil.Process(child.pid)):
                worker.kill()
                killed += 1
        time.sleep(0.01)
    told = child.communicate(timeout=240)[1]
    assert child.returncode == 0, told
    assert killed
    lines = told.splitlines()
    assert all(line.startswith("layerwise: ") for line in lines), lines
    assert any("was lost; its piece is made again" in line for line in lines), lines
    tables = (pd.read_parquet(tmp_path / name / "records.parquet") for name in ("whole", "run"))
    pd.testing.assert_frame_equal(*tables)
    assert lw.verify(out).ok


def test_a_killed_starting_process_leaves_its_pieces_and_no_worker(tmp_path):
    out, whole = tmp_path / "run", tmp_path / "whole"
    asked = ablation_command(tmp_path, 400)
    alone = commands.run(*asked, "--out", whole)  # which tells of progress after half a minute
    assert alone.code == 0, alone
    rng, kept = random.Random(SEED), []
    for _ in range(3):
        child = subprocess.Popen(
            [*commands.COMMAND, *asked, "--out", str(out), "--ray", "local,actors=4"],
            env=commands.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        before, deadline = len(list(out.glob("parts/records*.part"))), time.monotonic() + 240
        while child.poll() is None and time.monotonic() < deadline:
            if len(list(out.glob("parts/records*.part"))) > before + rng.randint(0, 2):
                break
            time.sleep(0.01)
        left = psutil.Process(child.pid).children(recursive=True) if child.poll() is None else []
        # Ray's own agents find out later, and hold nothing.
        held = [one for one in left if not one.name().endswith("Agent")]
        child.send_signal(signal.SIGKILL)
        child.wait()
        kept.append(len(list(out.glob("parts/records*.part"))))
        _, alive = psutil.wait_procs(held, timeout=60)
        assert not alive
    assert kept == sorted(kept)
    assert kept[0] > 0
    alone = commands.run(*asked, "--out", out)  # on this machine alone
    assert alone.code == 0, alone
    for path in sorted(whole.glob("*.parquet")):
        pd.testing.assert_frame_equal(pd.read_parquet(out / path.name), pd.read_parquet(path))
    facts = json.loads((out / "run.json").read_text())
    print(f"pieces kept at each of the kills: {kept}; {facts['machines']}")
    assert sum(len(one["pieces"]) for one in facts["machines"]) >= kept[-1] > 0


@pytest.mark.parametrize("lost", ["gcs_server", "raylet"])
def test_a_head_that_dies_ends_the_run_in_a_sentence_and_nothing_is_lost(tmp_path, lost):
    task = write_jsonl(tmp_path / "mine.jsonl", word_task(400, "mine").items)
    out = tmp_path / "run"
    asked = ["ablate", commands.model_folder(), "--task", task, "--fewshot", "0", "--out", out]
    child = subprocess.Popen(
        [*commands.COMMAND, *map(str, asked), "--ray", "local,actors=2"],
        env=commands.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while child.poll() is None and not list(out.glob("parts/records*.part")):
        time.sleep(0.05)
    for process in psutil.Process(child.pid).children(recursive=True):
        if process.name().startswith(lost):
            process.kill()
    said = child.communicate(timeout=60)[1]
    assert child.returncode == 2, said
    assert "layerwise: Ray does not answer at" in said
    assert "Traceback" not in said
    kept = len(list(out.glob("parts/records*.part")))
    assert kept > 0
    assert commands.run(*asked).code == 0  # on this machine alone
    facts = json.loads((out / "run.json").read_text())
    assert sum(len(one["pieces"]) for one in facts["machines"]) == kept
