"""Sweeps that are counted in place of being made: they cost what they then take."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

import layerwise as lw
from layerwise.models.organisms.layout import Spot, WiredLayout
from layerwise.runs.dry_sweeps import cost_of_sweeps
from layerwise.runs.setup import prepare
from layerwise.sweep import Generate, LogLikelihood, intact, skip
from tests.analysis import word_task
from tests.models.tiny import tiny_model
from tests.planted import small_model, small_task

LAYOUT = WiredLayout(
    n_layers=5, n_heads=2, previous=Spot(0, 1), look_up=Spot(1, 0), facts=Spot(2, 1),
    second_hop=Spot(3, 0), gate=Spot(4, 1),
)  # fmt: skip


def exchanged() -> Any:
    """A transplant between a wired model and the same without a layer that it needs."""
    whole = small_model(LAYOUT)
    broken = copy.deepcopy(whole)
    with torch.no_grad():
        broken.blocks[1].attn.W_O.mul_(1e-6)
    task = small_task("retrieval", 8)
    return lw.transplant(broken, whole, task, "continuation", layers=[1, 2], progress=False)


ASKED: dict[str, Any] = {"protocols": "continuation", "limit": 4, "progress": False}
RUNS: dict[str, Callable[[], Any]] = {
    "removal": lambda: lw.removal_order(
        tiny_model("llama"), word_task(12), n_removed=1, by="deep", **ASKED
    ),
    "interactions": lambda: lw.interactions(
        small_model(LAYOUT), small_task("retrieval", 8), **ASKED
    ),
    "transplant": exchanged,
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_takes_the_token_passes_that_were_planned(name):
    work: list[Any] = list(RUNS[name]().facts.work)
    planned, made = (
        [entry[key] for entry in work] for key in ("planned_token_passes", "token_passes")
    )
    assert planned == made
    assert sum(made) > 0


def test_stand_ins_are_of_the_kinds_that_are_asked_for():
    task = word_task(4)
    setup = prepare(tiny_model("llama"), task, "continuation")
    requests = [LogLikelihood((1, 2), (3,)), Generate((1, 2), 4)]
    seen: list[Any] = []
    cost = cost_of_sweeps(
        setup, task, lambda by: seen.append(by.sweep([intact(), skip(1)], requests).outcomes)
    )
    (outcomes,) = seen
    assert [[type(one).__name__ for one in row] for row in outcomes] == [
        ["Scored", "Generated"]
    ] * 2
    assert cost == setup.cost(task, [intact(), skip(1)], requests)
