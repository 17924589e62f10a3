"""The benchmark of plans: that it sets each job against its own plan."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from layerwise.tasks import task_names
from tests.analysis import prompt_pair, word_task
from tests.models.seq2seq.tiny import tiny_seq2seq
from tests.models.tiny import tiny_model

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def plan_vs_actual(monkeypatch, tmp_path):
    monkeypatch.setenv("LAYERWISE_CACHE", str(tmp_path))
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("plan_vs_actual")


@pytest.mark.parametrize("made", [lambda: tiny_model("llama"), lambda: tiny_seq2seq("t5")])
def test_three_jobs_are_planned_and_run(plan_vs_actual, made):
    model = made()
    pair = prompt_pair(model, "pair", "the red key opens", "the blue key opens")
    assert pair is not None
    asked = (word_task(5),)
    suites = plan_vs_actual.Suites(asked, asked, (word_task(items=(pair,)),))
    scored, written, patched = plan_vs_actual.compare(model, suites, 3, 2)
    assert scored.planned_passes == scored.passes > 0
    assert patched.planned_passes == patched.passes > 0
    assert written.passes > 0
    rows = (scored, written, patched)
    assert all(row.ratio == pytest.approx(row.seconds / row.planned_seconds) for row in rows)
    lines = plan_vs_actual.table(list(rows)).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == [f"| {row.job}" for row in rows]


def test_suites_are_there(plan_vs_actual):
    for suites, known in (
        (plan_vs_actual.TEXTS, task_names()),
        (plan_vs_actual.TOYS, task_names("organism")),
    ):
        assert {*suites.scored, *suites.written, *suites.patched} <= set(known)
