"""Training of the models of this study's cases."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from adapter_measurements import load_tasks

import layerwise as lw


class ModelPair(NamedTuple):
    """A model before and after training.

    Attributes:
        before: the name or folder before.
        after: the folder after.
        tables: what the training brought.
    """

    before: str | Path
    after: Path
    tables: dict[str, pd.DataFrame]


def train_case(case: str, config: Mapping[str, Any], runs: Path, seed: int) -> ModelPair:
    """The model of a case, by low-rank adapters: made better on a suite, or healed.

    Args:
        case: its name.
        config: the configuration, whose ``seed`` decides which items are measured.
        runs: folder of the case.
        seed: of the training.
    """
    asked, name = config[case], config["model"]
    out = runs / ("model" if seed == config["seed"] else f"model-of-seed-{seed}")
    tasks = load_tasks(asked["tasks"], asked["fewshot"], config["seed"])
    rest = {"out": out, "limit": asked["items"], "seed": seed, **asked["training"]}
    if asked["remove"]:
        before: str | Path = runs / "pruned"
        lw.prune_model(lw.load_model(name), asked["remove"], before, tasks, "continuation", limit=4)
        result = lw.heal(before, tasks, asked["protocols"], **rest)
    else:
        before = name
        result = lw.distill(
            lw.load_model(name), lw.load_model(name), tasks, asked["protocols"], **rest
        )
    return ModelPair(before, out, {"gains": result.gains(), "curve": result.distillation_curve})
