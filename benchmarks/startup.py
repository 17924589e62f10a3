"""Wait of a user before anything happens: import, help, a model from the cache.

Each is timed as whole processes, Python's own start included; the best of some runs is told, as
the first finds files that are not in memory yet.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from machine import machine
from measuring import Cost, markdown

# What takes long to import; none of it is needed to import the package or to read its help.
HEAVY = (
    "torch", "transformers", "transformer_lens", "pandas", "scipy", "sklearn",
    "seaborn", "matplotlib",
)  # fmt: skip


@dataclass(frozen=True)
class Start:
    """Something that a user waits for.

    Attributes:
        name: what it is.
        command: the process.
        limit: seconds that it may take on a quiet machine.
    """

    name: str
    command: tuple[str, ...]
    limit: float


_PYTHON = (sys.executable, "-c")
IMPORT = Start("import layerwise", (*_PYTHON, "import layerwise"), 0.3)
HELP = Start(
    "layerwise --help", (*_PYTHON, "from layerwise.cli import main; main()", "--help"), 0.5
)
COMPLETION = Start(
    "a task's name by the tab key",
    (*_PYTHON, "from layerwise.cli.completion import complete_task; complete_task('fac')"), 1,
)  # fmt: skip
MODEL = Start(
    "SmolLM2-135M from the cache", (*_PYTHON, "import layerwise; layerwise.load_model()"), 6
)


def best_cost(start: Start, runs: int) -> Cost:
    """Wall-clock seconds and processor seconds, each of the fastest of some runs."""
    costs = [_cost(start.command) for _ in range(runs)]
    return Cost(min(one.seconds for one in costs), min(one.cpu_seconds for one in costs))


def _cost(command: Sequence[str]) -> Cost:
    wall, before = time.perf_counter(), os.times()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    cpu = after.children_user - before.children_user + after.children_system
    return Cost(time.perf_counter() - wall, cpu - before.children_system)


def share_of_libraries() -> tuple[float, float]:
    """Processor seconds of a fresh Python until the libraries are there, and until the model is."""
    tell = "import time; print(time.process_time())"
    done = subprocess.run(
        [*_PYTHON, f"import transformer_lens, transformers\n{tell}\n{MODEL.command[-1]}\n{tell}"],
        check=True, text=True, stdout=subprocess.PIPE,
    )  # fmt: skip
    libraries, model = done.stdout.split()
    return float(libraries), float(model)


def heavy_modules(statement: str) -> list[str]:
    """Modules of ``HEAVY`` that are imported once a fresh Python has run a statement."""
    tell = f"import sys; print(*(name for name in {HEAVY} if name in sys.modules), file=sys.stderr)"
    done = subprocess.run(
        [*_PYTHON, f"try:\n    {statement}\nfinally:\n    {tell}", "--help"],
        check=True, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    return done.stderr.split()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="of each, the best counts (default 5)")
    wanted = parser.parse_args(arguments)
    where, rows = machine(), []
    for start in (IMPORT, HELP, COMPLETION, MODEL):
        cost = best_cost(start, wanted.runs)
        numbers = (f"{cost.seconds:.2f}", f"{cost.cpu_seconds:.2f}", f"{start.limit:g}")
        rows.append([start.name, *numbers])
    print(markdown("start|seconds|processor seconds|goal, seconds", rows))
    libraries, model = share_of_libraries()
    print(f"\nOf a model's start, {libraries / model:.0%} is the import of its libraries.")
    print(f"\n{where} Best of {wanted.runs} runs.")


if __name__ == "__main__":
    main()
