"""The benchmark of plans: that it sets each job against its own plan."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from tests.analysis import prompt_pair, word_task
from tests.models.tiny import tiny_model

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def plan_vs_actual(monkeypatch, tmp_path):
    monkeypatch.setenv("LAYERWISE_CACHE", str(tmp_path))
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("plan_vs_actual")


def test_three_jobs_are_planned_and_run(plan_vs_actual, monkeypatch):
    model = tiny_model("llama")
    pair = prompt_pair(model, "pair", "the red key opens", "the blue key opens")
    assert pair is not None
    for name, tasks in (
        ("SCORED", (word_task(5),)),
        ("WRITTEN", (word_task(5),)),
        ("PATCHED", (word_task(items=(pair,)),)),
    ):
        monkeypatch.setattr(plan_vs_actual, name, tasks)
    scored, written, patched = plan_vs_actual.compare(model, 3, 2)
    assert scored.planned_passes == scored.passes > 0
    assert patched.planned_passes == patched.passes > 0
    assert written.passes > 0
    rows = (scored, written, patched)
    assert all(row.ratio == pytest.approx(row.seconds / row.planned_seconds) for row in rows)
    lines = plan_vs_actual.table(list(rows)).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == [f"| {row.job}" for row in rows]
