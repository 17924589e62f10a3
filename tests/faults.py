"""Faults put into a copy of the package, one at a time, to see whether tests catch them.

A fault is the replacement of a text that must be in its file exactly once, so that a list of
faults cannot outlive the code that it is about. The lists are in ``mutants`` and ``mistakes``.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "layerwise"
AT_ONCE = 2
LIMIT_SECONDS = 600
CASES = "100"
UNCHANGED = "unchanged"


@dataclass(frozen=True)
class Fault:
    """A fault in a file of the list's folder, and its tests; those of the list if none."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...] = ()


class Verdict(NamedTuple):
    """Verdict on a fault: the test that caught it, None if none did."""

    name: str
    caught_by: str | None
    seconds: float


def judge_all(
    faults: Sequence[Fault], names: Sequence[str], within: str = "", tests: Sequence[str] = ()
) -> int:
    """Judge the unchanged copy and faults named like one of ``names``; 0 if all are caught."""
    chosen = [f for f in faults if not names or any(name in f.name for name in names)]
    if not chosen:
        raise SystemExit(f"No fault is called like {', '.join(names)}.")
    of_all = list(dict.fromkeys(test for f in chosen for test in f.tests or tests))
    jobs = [(None, of_all), *((fault, fault.tests or tests) for fault in chosen)]
    verdicts = []
    print("| fault | caught by | s |\n| --- | --- | ---: |", flush=True)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for verdict in pool.map(lambda job: _judge(*job, within), jobs):
            verdicts.append(verdict)
            caught_by = verdict.caught_by or "-"
            print(f"| {verdict.name} | {caught_by} | {verdict.seconds:.0f} |", flush=True)
    return _conclude(verdicts)


def _conclude(verdicts: Sequence[Verdict]) -> int:
    failed = [v.name for v in verdicts if v.name == UNCHANGED and v.caught_by]
    survived = [v.name for v in verdicts if v.name != UNCHANGED and not v.caught_by]
    for name in failed:
        print(f"The {name} copy fails, so that nothing is shown.")
    for name in survived:
        print(f"Not caught: {name}.")
    if not failed and not survived:
        print(f"All {len(verdicts) - 1} faults are caught.")
    return int(bool(failed or survived))


def _judge(fault: Fault | None, tests: Sequence[str], within: str) -> Verdict:
    """Run tests on a copy with a fault."""
    started = time.perf_counter()
    name = UNCHANGED if fault is None else fault.name
    with tempfile.TemporaryDirectory() as folder:
        _put_copy(fault, Path(folder), within)
        environment = os.environ | {
            "PYTHONPATH": folder,
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
            "LAYERWISE_CASES": CASES,
            "HYPOTHESIS_STORAGE_DIRECTORY": f"{folder}/hypothesis",
        }
        options = {"env": environment, "cwd": ROOT, "capture_output": True, "text": True}
        where = [sys.executable, "-c", "import layerwise; print(layerwise.__file__)"]
        found = subprocess.run(where, check=True, **options).stdout.strip()
        if not found.startswith(folder):
            raise SystemExit(f"{name}: the tests would run on {found}, not on the copy.")
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
        try:
            run = subprocess.run([*command, *tests], timeout=LIMIT_SECONDS, **options)
            caught_by = _first_failure(run)
        except subprocess.TimeoutExpired:
            caught_by = "the time limit"
    return Verdict(name, caught_by, time.perf_counter() - started)


def _put_copy(fault: Fault | None, folder: Path, within: str) -> None:
    """Put a copy of the package with a fault in a folder; its text must be there exactly once."""
    shutil.copytree(PACKAGE, folder / "layerwise", ignore=shutil.ignore_patterns("__pycache__"))
    if fault is None:
        return
    path = folder / "layerwise" / within / fault.file
    text = path.read_text()
    if text.count(fault.old) != 1:
        raise SystemExit(
            f"{fault.name}: {fault.file} has {fault.old!r} {text.count(fault.old)} times, not once."
        )
    path.write_text(text.replace(fault.old, fault.new))


def _first_failure(run: subprocess.CompletedProcess[str]) -> str | None:
    """The test that failed, None if all passed."""
    if run.returncode == 0:
        return None
    found = re.search(r"^(?:FAILED|ERROR) tests/(.+?)(?: - .*)?$", run.stdout, re.MULTILINE)
    if found is None:
        raise SystemExit(f"The tests did not run:\n{run.stdout[-2000:]}{run.stderr[-2000:]}")
    return found[1]
