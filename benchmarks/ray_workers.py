"""Ray's workers of one thread each, one and two of them, against one process with two threads.

The same ablation (every layer skipped, log-likelihoods and greedy texts) three ways, in turns: by
this process with two threads, by one worker of ``RayExecutor`` with one, by two with one each. No
ratio is printed unless all have the same answers. Workers are started, have loaded the model and
made a few pieces before anything is timed; what that took is told apart. Every round is saved as
soon as it is made.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import torch
from machine import machine
from measuring import Cost, markdown
from transplant_sweep import random_llama

import layerwise as lw
from layerwise.analyses.ablation import job

CLOSE = 1e-4
RESULTS = Path(__file__).parent / "results"
ITEMS_A_PIECE = 8
LOCAL = "one process, two threads"
WAYS = {LOCAL: 0, "one worker, one thread": 1, "two workers, one thread each": 2}
HEAD = "who makes the pieces|seconds|processor seconds|times as fast|of processor time"


def main(arguments: list[str]) -> None:
    asked = parse_arguments(arguments)
    job.ITEMS_AT_ONCE = ITEMS_A_PIECE
    print(machine("ray"))
    with tempfile.TemporaryDirectory() as folder:
        model = lw.load_model(asked.model or random_llama(folder, asked.layers))
        print("\n" + "\n".join(report_lines(model, asked)))


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="a model's name; a small random Llama if left out")
    parser.add_argument("--layers", type=int, default=16, help="of the random one")
    parser.add_argument("--task", default="facts")
    parser.add_argument("--items", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS / "ray_workers.csv")
    return parser.parse_args(arguments)


def report_lines(model: Any, asked: argparse.Namespace) -> Iterator[str]:
    """The table, and the sentences before it."""
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    expected: Any = None
    starts: list[str] = []
    # One cluster after the other would start and end processes within what is timed.
    with contextlib.ExitStack() as opened:
        executors: dict[str, Any] = {LOCAL: None}
        for way, n in list(WAYS.items())[1:]:
            executors[way] = opened.enter_context(lw.RayExecutor(actors=n, num_cpus=0.5))
            started = time.perf_counter()
            ablation(model, asked, ITEMS_A_PIECE * n, executors[way])
            starts.append(f"{n}: {time.perf_counter() - started:.0f} s")
        for number in range(asked.rounds):
            for way, executor in executors.items():
                torch.set_num_threads(2 if executor is None else 1)
                before = os.getloadavg()[0]
                result, cost = time_with_workers(
                    lambda e=executor: ablation(model, asked, asked.items, e)
                )
                expected = result.records if expected is None else expected
                rows.append(
                    {
                        "round": number, "way": way, "seconds": cost.seconds,
                        "processor_seconds": cost.cpu_seconds,
                        "gap": refuse_unlike(expected, result.records),
                        "load_before": before,
                    }
                )  # fmt: skip
                pd.DataFrame(rows).round(6).to_csv(asked.out, index=False)
                print(f"{way}: {cost.seconds:.1f} s", file=sys.stderr, flush=True)
    table = pd.DataFrame(rows)
    yield (
        f"{asked.items} items of `{asked.task}` in pieces of {ITEMS_A_PIECE}, "
        f"{model.cfg.n_layers} layers; medians of {asked.rounds} round(s). Answers are the same, "
        f"log-probabilities at most {table['gap'].max():.1e} nats apart. Until workers had "
        f"started, loaded the model and made a piece each: {', '.join(starts)}."
    )
    yield ""
    yield markdown(HEAD, median_table(table))


def median_table(rows: pd.DataFrame) -> list[list[str]]:
    """Medians over rounds by who made the pieces, beside those of one process."""
    medians = rows.groupby("way")[["seconds", "processor_seconds"]].median().loc[list(WAYS)]
    times = medians.loc[LOCAL] / medians
    return [
        [
            way, f"{seconds:.1f}", f"{of_cpu:.1f}",
            f"{times['seconds'][way]:.2f}", f"{times['processor_seconds'][way]:.2f}",
        ]
        for way, (seconds, of_cpu) in zip(medians.index, medians.to_numpy(), strict=True)
    ]  # fmt: skip


def ablation(model: Any, asked: argparse.Namespace, items: int, executor: Any) -> Any:
    return lw.ablate(
        model, asked.task, ("continuation", "generate"), limit=items, progress=False,
        executor=executor, memory_budget=2**29,
    )  # fmt: skip


def time_with_workers(run: Callable[[], Any]) -> tuple[Any, Cost]:
    """Run something; its seconds, and the processor seconds of this process and all workers."""
    wall, cpu = time.perf_counter(), processor_seconds()
    result = run()
    return result, Cost(time.perf_counter() - wall, processor_seconds() - cpu)


def processor_seconds() -> float:
    """Of this process and of the workers that it started."""
    mine = psutil.Process()
    total = 0.0
    for process in (mine, *mine.children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            if process == mine or process.cmdline()[0].startswith("ray::RayWorker"):
                times = process.cpu_times()
                total += times.user + times.system
    return total


def refuse_unlike(records: Any, other: Any) -> float:
    """End unless answers are the same; how far log-probabilities are apart, in nats."""
    gap = float(np.nanmax(np.abs(records["gold_logprob"] - other["gold_logprob"]), initial=0.0))
    same = (records["generated"].fillna("") == other["generated"].fillna("")).mean()
    if gap > CLOSE or same < 1:
        sys.exit(f"Not the same work: {gap:.1e} nats apart, {same:.1%} of the texts are the same.")
    return gap


if __name__ == "__main__":
    main(sys.argv[1:])
