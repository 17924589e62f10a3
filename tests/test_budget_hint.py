"""A memory budget that makes far more work of an ablation is told of before the work."""

from __future__ import annotations

from dataclasses import replace

import pytest

from layerwise.analyses.ablation import job as _ablation_job
from layerwise.analyses.ablation.job import Ablation
from layerwise.analyses.ablation.spec import AblationSpec
from layerwise.runs.checkpoints import MemoryCheckpoints
from layerwise.runs.line_meter import LineMeter
from layerwise.runs.setup import prepare
from tests.analysis import word_task
from tests.models.tiny import tiny_model


@pytest.mark.parametrize(("share", "n_lines"), [(1 / 4096, 1), (1, 0)])
def test_a_small_budget_is_told_of_once_and_the_usual_one_not(monkeypatch, share, n_lines):
    usual = 2**26
    monkeypatch.setattr(_ablation_job, "default_memory_budget", lambda device: usual)
    model, lines = tiny_model("llama"), []
    setup = prepare(model, word_task(12), "continuation", memory_budget=usual)
    setup = replace(setup, memory_budget=int(usual * share))
    job = Ablation(setup, (AblationSpec.of(model, "skip", None, (0, 1, 2)),))
    job.run(MemoryCheckpoints(), {}, LineMeter(lines.append))
    assert len(lines) == n_lines
    if lines:
        assert "with a memory budget of 0 MiB this takes about" in lines[0]
        assert "times the work that it takes with 64 MiB" in lines[0]
