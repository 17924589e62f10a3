"""Measurements of each model in this study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import layerwise as lw
from layerwise.models.instance.kinds import Model
from layerwise.results import AblationResult, LensResult, PatchingResult
from layerwise.tasks import Task, load_task


def load_tasks(names: Sequence[str], fewshot: int | Mapping[str, int], seed: int) -> list[Task]:
    """Suites with their few-shot examples, one number for all or each its own."""
    shown = {name: fewshot if isinstance(fewshot, int) else fewshot[name] for name in names}
    return [load_task(name, seed=seed, fewshot=n) for name, n in shown.items()]


def sweep_layers(
    model: Model, tasks: Sequence[Task], asked: Mapping[str, Any], runs: Path
) -> tuple[AblationResult, LensResult, PatchingResult]:
    """Skip, read and patch every layer of a model, and save all three in ``runs/swept``.

    Args:
        model: the model.
        tasks: what it is asked.
        asked: the configuration.
        runs: where interrupted runs go on.
    """
    limit = asked["items"]
    made = (
        lw.ablate(model, tasks, asked["protocols"], limit=limit, out=runs / "ablation"),
        lw.logit_lens(model, tasks, "continuation", limit=limit, out=runs / "lens"),
        lw.patch_activations(
            model, tasks, positions="last", pairs=asked["pairs"], limit=limit, out=runs / "patching"
        ),
    )
    for result in made:
        result.save(runs / "swept")
    return made


def measure_other_abilities(
    model: Model, asked: Mapping[str, Any], seed: int, runs: Path
) -> AblationResult:
    """Ask a model what it could do before, with and without its first layer."""
    tasks = load_tasks(asked["tasks"], asked["fewshot"], seed)
    return lw.ablate(
        model, tasks, asked["protocols"], layers=[0], limit=asked["items"], out=runs / "kept"
    )


def sums(model: Model, asked: Mapping[str, Any], seed: int, runs: Path) -> AblationResult:
    """Ask a model the sums of two numbers that the base is swept on, likewise."""
    tasks = load_tasks(asked["base"], asked["fewshot"], seed)
    return lw.ablate(
        model, tasks, asked["protocols"], layers=[0], limit=asked["items"], out=runs / "sums"
    )
