"""Answers of models that hardly know them, all of them drawn anew under every changed layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from layerwise.analyses.comparison.quantities import PreparedRun
from layerwise.analyses.comparison.runs import SavedRun
from layerwise.stats.cells import Cell
from layerwise.stats.depth.layer_curves import Sampling
from layerwise.stats.items.clusters import Clusters
from tests import synthetic
from tests.comparing import CHANCE, answers, model

PROTOCOLS = ("letter", "continuation", "generate")


def cell(
    rng: np.random.Generator,
    task: str,
    protocol: str,
    *,
    accuracy: float,
    noise: float,
    n: int = 100,
    n_layers: int = 12,
    hits: Mapping[int, float] | None = None,
) -> Cell:
    """One task, a capability of its own; ``hits`` are shares of items that a layer takes."""
    right = answers(rng, rng.random(n) < accuracy, dict(hits or {}), n_layers, noise, accuracy)
    layers = pd.DataFrame({"layer": range(n_layers), "kind": "skip", "site": "layer"})
    nothing = np.zeros((n, n_layers))
    items = tuple(f"{task}/{i:04d}" for i in range(n))
    return Cell(
        task, task, protocol, layers, right[:, 0], right[:, 1:], nothing, nothing, items,
        Clusters.singletons(n), no_layers=rng.random(n) < CHANCE,
    )  # fmt: skip


def run_cells(rng: np.random.Generator, n_tasks: int = 9, **changes: Any) -> list[Cell]:
    """All tasks of a run, each under three protocols."""
    return [
        cell(rng, f"task {i}", protocol, **changes)
        for i in range(n_tasks)
        for protocol in PROTOCOLS
    ]


def prepared_run(name: str, cells: Sequence[Cell]) -> PreparedRun:
    """A run as it is compared by accuracies and shares lost, without evidence of depths."""
    n_items, n_layers = cells[0].correct.shape
    tasks = [
        synthetic.task_facts(task, task, n_items=n_items).model_copy(
            update={"chance": dict.fromkeys(PROTOCOLS, CHANCE)}
        )
        for task in dict.fromkeys(each.task for each in cells)
    ]
    facts = synthetic.facts(*tasks, model=model(name, n_layers), protocols=PROTOCOLS)
    by_place = {(each.task, each.protocol): each for each in cells}
    run = SavedRun(name, None, facts, ())
    return PreparedRun(run, Sampling(0, 200, n_layers), (), (), by_place)
