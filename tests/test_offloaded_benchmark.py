"""The benchmark of off-loaded models at a tiny size: both sides say the same, or it ends."""

from __future__ import annotations

import copy
import importlib
import json
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from tests.models.tiny import tiny_folder

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="reads memory from Linux's /proc"
)


@pytest.fixture
def benchmark(monkeypatch) -> Any:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    return importlib.import_module("offloaded")


@pytest.fixture(params=["auto", "hugging-face"])
def sides(request, benchmark, tmp_path, monkeypatch, capsys) -> dict[str, Any]:
    monkeypatch.setenv("LAYERWISE_CACHE", str(tmp_path / "cache"))
    folder = tiny_folder(tmp_path, "llama", max_position_embeddings=2048)
    said = {}
    for side in ("memory", "disk"):
        benchmark.run_side(
            Namespace(
                model=str(folder),
                side=side,
                items=1,
                threads=1,
                budget=8,
                limit=0,
                backend=request.param,
            )
        )
        said[side] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return said


@pytest.mark.long
def test_both_sides_do_the_same_work_and_a_difference_ends_it(benchmark, sides):
    memory, disk = sides.values()
    assert memory["weights"] == disk["weights"] > 0
    assert benchmark.largest_gap(memory, disk) < 1e-5
    rows = benchmark.table(sides).splitlines()[2:]
    assert [row.split("|")[1].strip() for row in rows] == ["loading", *benchmark.WORKS]
    for work in benchmark.WORKS:
        assert disk[work]["seconds"] > 0
        assert len(disk[work]["outcomes"]) % 4 == 0, "the intact model and each of three layers"
        other = copy.deepcopy(disk)
        other[work]["outcomes"][0][0] += 1
        with pytest.raises(SystemExit, match=r"differ"):
            benchmark.largest_gap(memory, other)


@pytest.mark.long
def test_a_peak_can_begin_anew():
    """In a process of its own: other tests' memory comes and goes."""
    program = """
import offloaded
held = bytearray(b"1" * 2**27)
high = offloaded.status("VmHWM")
assert high >= len(held)
del held
offloaded.reset_peak()
assert offloaded.status("VmHWM") <= high - 2**26
"""
    folder = Path(__file__).parents[1] / "benchmarks"
    subprocess.run([sys.executable, "-c", program], cwd=folder, check=True)
