"""A memory budget that makes far more work of a run is told of before the work."""

from __future__ import annotations

from dataclasses import replace

import pytest

from layerwise.analyses.ablation.job import Ablation
from layerwise.analyses.ablation.spec import AblationSpec
from layerwise.analyses.patching.job import Patching
from layerwise.analyses.removal.job import Removal
from layerwise.models import load_model
from layerwise.runs import dry_sweeps
from layerwise.runs.checkpoints import MemoryCheckpoints
from layerwise.runs.progress import LineMeter
from layerwise.runs.setup import prepare
from layerwise.sweep.plans.cost import Cost

USUAL = 2**26
JOBS = {
    "ablation": lambda setup: Ablation(
        setup, (AblationSpec.of(setup.model, "skip", None, tuple(range(8))),)
    ),
    "patching": lambda setup: Patching(setup, ("attn_out",), 1),
    "removal": lambda setup: Removal(setup, 1, ("greedy",), 0.5),
}


@pytest.mark.parametrize("name", JOBS)
@pytest.mark.parametrize(("share", "n_lines"), [(1 / 1024, 1), (1, 0)])
def test_a_small_budget_is_told_of_once_and_the_usual_one_not(monkeypatch, name, share, n_lines):
    monkeypatch.setattr(dry_sweeps, "default_memory_budget", lambda device: USUAL)
    lines: list[str] = []
    setup = prepare(
        load_model("organism-decoder"), "organism-lookup", "continuation", limit=2,
        memory_budget=USUAL,
    )  # fmt: skip
    job = JOBS[name](replace(setup, memory_budget=int(USUAL * share)))
    job.run(MemoryCheckpoints(), {}, LineMeter(lines.append))
    assert len(lines) == n_lines
    if lines:
        assert "with a memory budget of 0 MiB this takes about" in lines[0]
        assert "times the work that it takes with 64 MiB" in lines[0]


def test_nothing_to_do_is_not_told_of():
    setup = prepare(
        load_model("organism-decoder"), "organism-lookup", limit=2, protocols="continuation"
    )
    lines: list[str] = []
    small = replace(setup, memory_budget=1)
    dry_sweeps.tell_of_more_memory(small, [], LineMeter(lines.append), lambda roomy, at: Cost())
    assert not lines
