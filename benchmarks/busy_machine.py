"""Time of a run beside busy processes, by how threads that have no work wait.

A process for each setting loads the models once. Then they take turns: each makes the same small
ablations on a quiet machine, beside one busy process and beside three, which are started here. No
table is printed unless all have the same answers. Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from machine import machine
from measuring import markdown
from ray_workers import refuse_unlike

from layerwise.ground.waiting import DECIDED_BY

HERE = Path(__file__).parent
OURS, OPENMP = "the command line's", "OpenMP's own"
# Each beside an environment that does not decide.
SETTINGS: Mapping[str, Mapping[str, str]] = {
    OURS: {},
    OPENMP: {},
    "OMP_WAIT_POLICY=PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
    "GOMP_SPINCOUNT=1000": {"GOMP_SPINCOUNT": "1000"},
    "OMP_NUM_THREADS=1": {"OMP_NUM_THREADS": "1"},
}
BESIDE = {0: "quiet", 1: "beside one", 3: "beside three"}
# On a quiet machine the others, the measured process before among them, have been gone so long.
QUIET_SECONDS = 3.0
# It takes up to thirty times as long there.
LEFT_OUT = {(OPENMP, 1), (OPENMP, 3)}
# Ends by itself if whoever started it is gone.
BUSY = "import os\nparent = os.getppid()\nwhile os.getppid() == parent:\n    sum(range(100_000))"


@dataclass(frozen=True)
class Work:
    """An ablation: every layer skipped, on the first items of some tasks."""

    tasks: str
    protocols: tuple[str, ...]
    limit: int


WORKS = {
    "organism-decoder": Work("all", ("letter", "continuation", "generate"), 16),
    "smollm2-135m": Work("facts", ("continuation",), 2),
}
QUICK = {"organism-decoder": Work("all", ("letter", "generate"), 1)}


class Worker:
    """A process that has loaded the models, and ablates one when asked to."""

    def __init__(self, setting: str, works: Mapping[str, Work], folder: Path) -> None:
        self.path = folder / f"{list(SETTINGS).index(setting)}.parquet"
        plain = {name: value for name, value in os.environ.items() if name not in DECIDED_BY}
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--work", setting, str(self.path), *works],
            env={**plain, **SETTINGS[setting]}, text=True, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )  # fmt: skip
        self._answer()

    def run(self, model: str, work: Work, before_others: bool) -> tuple[float, float]:
        """Wall-clock and processor seconds of one ablation."""
        assert self.process.stdin is not None
        asked = [model, work.tasks, work.protocols, work.limit, before_others]
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        seconds, of_processors = self._answer()
        return seconds, of_processors

    def records(self) -> pd.DataFrame:
        """Records of the last ablation."""
        return pd.read_parquet(self.path)

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            sys.exit("A measured process ended before its time; what it said stands above.")
        return json.loads(line)


def work(setting: str, path: str, models: Sequence[str]) -> None:
    """Work of a measured process, settled as the command line's is."""
    from layerwise.ground import process, waiting

    process.collect_garbage_rarely()
    if setting == OURS and not waiting.wait_briefly_beside_others():
        sys.exit("The kernel does not tell how long threads wait for processors.")
    import layerwise as lw

    loaded = {name: lw.load_model(name) for name in models}
    process.settle()
    print("[]", flush=True)
    for line in sys.stdin:
        name, tasks, protocols, limit, alone = json.loads(line)
        with high_priority(alone):
            wall, cpu = time.perf_counter(), time.process_time()
            result = lw.ablate(
                loaded[name], tasks, protocols, limit=limit, memory_budget=2**29, progress=False
            )
            spent = time.perf_counter() - wall, time.process_time() - cpu
        result.records.to_parquet(path)
        print(json.dumps(spent), flush=True)


@contextlib.contextmanager
def high_priority(wanted: bool) -> Iterator[None]:
    """Let all threads of this process run before those of other programs."""
    if wanted:
        _schedule(os.SCHED_FIFO, 1)
    try:
        yield
    finally:
        if wanted:
            _schedule(os.SCHED_OTHER, 0)


def _schedule(policy: int, priority: int) -> None:
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(ProcessLookupError):
            os.sched_setscheduler(int(thread), policy, os.sched_param(priority))


@contextlib.contextmanager
def beside(n: int) -> Iterator[None]:
    """So many processes that never wait."""
    others = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(n)]
    try:
        time.sleep(0.3 if n else 0)
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def measure_ablations(
    works: Mapping[str, Work], rounds: int, alone: bool
) -> Iterator[dict[str, Any]]:
    """A row for each ablation; settings take turns, and so does which of them is first."""
    with contextlib.ExitStack() as opened:
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory()))
        workers = {}
        for setting in SETTINGS:
            workers[setting] = Worker(setting, works, folder)
            opened.callback(workers[setting].close)
            for model, asked in works.items():  # what is set up at first use
                workers[setting].run(model, Work(asked.tasks, asked.protocols, 1), False)
        for one in range(rounds):
            turns = [*workers.items()]
            turns = turns[one % len(turns) :] + turns[: one % len(turns)]
            for n in BESIDE:
                for model, asked in works.items():
                    with beside(n):
                        yield from _exclusive(dict(turns), model, asked, n, alone and n == 0)


def _exclusive(
    workers: Mapping[str, Worker], model: str, asked: Work, n: int, alone: bool
) -> Iterator[dict[str, Any]]:
    first = None
    for setting, worker in workers.items():
        if (setting, n) in LEFT_OUT:
            continue
        time.sleep(0.0 if n else QUIET_SECONDS)
        seconds, of_processors = worker.run(model, asked, alone)
        print(f"{model}, {BESIDE[n]}, {setting}: {seconds:.2f} s", file=sys.stderr, flush=True)
        found = worker.records()
        first = found if first is None else first
        yield {
            "setting": setting, "model": model, "beside": n, "seconds": seconds,
            "processor_seconds": of_processors, "gap": refuse_unlike(first, found),
        }  # fmt: skip


def table(rows: pd.DataFrame) -> str:
    """Median seconds of each setting, and as multiples of the best, in Markdown."""
    seconds = rows.groupby(["model", "beside", "setting"])["seconds"].median()
    best = seconds.groupby(["model", "beside"]).min()
    columns = [(model, n) for model in rows["model"].unique() for n in BESIDE]
    lines = []
    for setting in SETTINGS:
        measured = [at for at in columns if (setting, at[1]) not in LEFT_OUT]
        times = {at: seconds[*at, setting] / best[at] for at in measured}
        cells = [
            f"{seconds[*at, setting]:.2f} ({times[at]:.2f})" if at in times else ""
            for at in columns
        ]
        lines.append([setting, *cells, f"{max(times.values()):.2f}"])
    names = [f"{model}, {BESIDE[n]}" for model, n in columns]
    return markdown("|".join(["setting", *names, "worst"]), lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a very small size, as a trial")
    parser.add_argument(
        "--alone", action="store_true",
        help="quiet rounds run before all other programs (SCHED_FIFO; needs root), where there "
        "are some",
    )  # fmt: skip
    parser.add_argument("--add", action="store_true", help="to the rounds that are saved")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "busy_machine.csv")
    wanted = parser.parse_args(arguments)
    where = machine()
    wanted.out.parent.mkdir(parents=True, exist_ok=True)
    rows = pd.read_csv(wanted.out) if wanted.add else pd.DataFrame()
    for row in measure_ablations(QUICK if wanted.quick else WORKS, wanted.rounds, wanted.alone):
        rows = pd.concat([rows, pd.DataFrame([row])])
        rows.round(6).to_csv(wanted.out, index=False)
    each = rows.groupby(["model", "beside", "setting"]).size()
    print(f"{table(rows)}\n\n{where} Medians of {each.min()} rounds; the same answers, ", end="")
    print(f"log-probabilities at most {rows['gap'].max():.1e} nats apart.")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        work(sys.argv[2], sys.argv[3], sys.argv[4:])
    else:
        main()
