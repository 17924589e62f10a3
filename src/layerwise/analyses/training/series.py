"""The runs of all checkpoints joined: the same items of each, under the same protocols.

Runs that do not make a series are refused here; what is computed of them is in ``tables``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from layerwise.analyses.ablation.result import AblationResult
from layerwise.analyses.comparison.runs import (
    SavedRun,
    on_shared_tasks,
    refuse_other_prompts,
    refuse_same_model,
    shared_change,
)
from layerwise.analyses.registry import with_curves
from layerwise.errors import UserError, counted
from layerwise.stats.cells import BASELINES, Cell, cells
from layerwise.storage.base import Result
from layerwise.storage.provenance import join_facts

LAYERS = ("skip", "layer")


@dataclass(frozen=True)
class Series:
    """The runs of a series.

    Attributes:
        steps: of the checkpoints, in order.
        runs: of each.
        change: kind and site of the changes of single layers.
    """

    steps: tuple[int, ...]
    runs: tuple[SavedRun, ...]
    change: tuple[str, str]

    @property
    def n_layers(self) -> int:
        """Layers of the model."""
        return self.runs[0].facts.model.n_layers

    def ablations(self) -> list[AblationResult]:
        """The ablation of each checkpoint."""
        return [run.ablation for run in self.runs if run.ablation is not None]

    def chance(self, task: str, protocol: str) -> float:
        """Accuracy by guessing."""
        return self.runs[0].facts.chance(task, protocol)

    def cells(self) -> dict[tuple[str, str], list[Cell]]:
        """By task and protocol, the records of each checkpoint."""
        listed = [
            {(c.task, c.protocol): c for c in cells(_changed(each.records, self.change))}
            for each in self.ablations()
        ]
        for step, by_key in zip(self.steps, listed, strict=True):
            if set(by_key) != set(listed[0]):
                differing = sorted(set(by_key) ^ set(listed[0]))[0]
                raise UserError(
                    f"Task {differing[0]!r} under {differing[1]} is in the run of step "
                    f"{self.steps[0]} or in that of step {step}, and not in both: expected the "
                    "same protocols at every step; run them again with the same --protocol."
                )
        return {key: [by_key[key] for by_key in listed] for key in listed[0]}


def joined_series(results: Mapping[int, Sequence[Result]]) -> Series:
    """The runs of a series, checked."""
    if len(results) < 2:
        raise UserError(
            f"A series of {counted(len(results), 'checkpoint')} is none: expected two or more "
            "steps of one model's training."
        )
    steps = tuple(sorted(results))
    runs = checkpoints_of_one_model(results)
    shared, left_out = on_shared_tasks(runs)
    for row in left_out:
        raise UserError(
            f"Task {row['task']!r} does not have the same items at every step "
            f"({row['reason']}): expected the same tasks of all; run them again with the same "
            "--task, --limit, --seed and few-shot examples."
        )
    return Series(steps, tuple(shared), shared_change(shared) or LAYERS)


def checkpoints_of_one_model(results: Mapping[int, Sequence[Result]]) -> list[SavedRun]:
    """The runs so far in the order of their steps, of one model each time and never the same."""
    runs = [_run(step, results[step]) for step in sorted(results)]
    refuse_same_model(runs)
    refuse_other_prompts(runs)
    _refuse_other_shapes(runs)
    return runs


def _run(step: int, results: Sequence[Result]) -> SavedRun:
    curves = with_curves(results)
    if not any(isinstance(curve, AblationResult) for curve in curves):
        raise UserError(
            f"The run of step {step} has no ablation: expected layers that were skipped one by "
            "one; run `layerwise profile-training` or `layerwise ablate` with this folder."
        )
    facts = join_facts([result.facts for result in curves])
    return SavedRun(f"step {step}", None, facts, tuple(curves))


def _refuse_other_shapes(runs: Sequence[SavedRun]) -> None:
    shapes = {}
    for run in runs:
        model = run.facts.model
        shape = f"{counted(model.n_layers, 'layer')}, {model.n_parameters} parameters"
        shapes.setdefault(shape, run.name)
    if len(shapes) > 1:
        listed = "; ".join(f"{shape} at {name}" for shape, name in shapes.items())
        raise UserError(
            f"These are not checkpoints of one model ({listed}): expected the same layers and "
            "parameters at every step; leave the others out, or compare them as models with "
            "`layerwise compare`."
        )


def _changed(records: pd.DataFrame, change: tuple[str, str]) -> pd.DataFrame:
    """The records of one change of single layers, and those that they are measured by."""
    kind, site = change
    single = (records["kind"] == kind) & (records["site"] == site)
    if "head" in records:
        single &= records["head"].isna()
    return records.loc[single | records["kind"].isin(BASELINES)]
