"""The benchmark beside busy processes: in turns, with a table, and none for other answers."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
ANSWERS = pd.DataFrame({"gold_logprob": [-1.0, -2.0], "generated": ["a", None]})


class Worker:
    """Takes as many seconds as letters stand in its setting's name."""

    def __init__(self, setting: str, works: Any, folder: Path) -> None:
        self.setting, self.found = setting, ANSWERS

    def run(self, model: str, work: Any, before_others: bool) -> tuple[float, float]:
        return float(len(self.setting)), 1.0

    def records(self) -> pd.DataFrame:
        return self.found

    def close(self) -> None: ...


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(FOLDER)
    module: Any = importlib.import_module("busy_machine")
    monkeypatch.setattr(module, "Worker", Worker)
    monkeypatch.setattr(module.time, "sleep", lambda seconds: None)
    return module


def test_settings_take_turns_and_are_held_against_the_best(benchmark, tmp_path, capsys):
    out = tmp_path / "results" / "busy.csv"
    benchmark.main(["--quick", "--rounds", "2", "--out", str(out)])
    benchmark.main(["--quick", "--rounds", "1", "--out", str(out), "--add"])
    rows = pd.read_csv(out)
    n, left_out = len(benchmark.SETTINGS), len(benchmark.LEFT_OUT)
    assert len(rows) == 3 * (3 * n - left_out)
    first = rows.groupby(rows.index // (3 * n - left_out))["setting"].first()
    assert first[0] != first[1]
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("| ")
    ]
    assert [line[0] for line in lines[2 : n + 2]] == list(benchmark.SETTINGS)
    of = {line[0]: line[1:] for line in lines[2 : n + 2]}
    shortest, longest = min(benchmark.SETTINGS, key=len), max(benchmark.SETTINGS, key=len)
    assert of[longest][-1] == f"{len(longest) / len(shortest):.2f}"
    assert of[shortest][1:3] == ["", ""]


def test_other_answers_end_it_without_a_table(benchmark, monkeypatch, tmp_path):
    class Other(Worker):
        def records(self) -> pd.DataFrame:
            other = self.setting == "OMP_NUM_THREADS=1"
            return ANSWERS.assign(gold_logprob=[-1.0, -2.1 if other else -2.0])

    monkeypatch.setattr(benchmark, "Worker", Other)
    with pytest.raises(SystemExit, match="Not the same work"):
        benchmark.main(["--quick", "--rounds", "1", "--out", str(tmp_path / "busy.csv")])


def test_busy_processes_end_with_it(benchmark, monkeypatch):
    started: list[Any] = []

    def start(*given: Any) -> Any:
        started.append(start_process(*given))
        return started[-1]

    start_process = subprocess.Popen
    monkeypatch.setattr(benchmark.subprocess, "Popen", start)

    def interrupted() -> None:
        with benchmark.beside(2):
            assert [one.poll() for one in started] == [None, None]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert all(one.returncode is not None for one in started)


@pytest.mark.long
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks Linux")
def test_real_processes_are_measured(tmp_path):
    done = subprocess.run(
        [sys.executable, str(FOLDER / "busy_machine.py"), "--quick", "--rounds", "1", "--out",
         str(tmp_path / "busy.csv")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "| the command line's |" in done.stdout
