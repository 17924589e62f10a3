"""Measurements of the layers of each model in this study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

import layerwise as lw
from layerwise.analyses.logit_lens.result import answers_on_top
from layerwise.models.instance.kinds import Model
from layerwise.presentation.rows import rows
from layerwise.results import AblationResult, LensResult, PatchingResult
from layerwise.tasks import Task


class ModelResults(NamedTuple):
    """The results of one model.

    Attributes:
        ablation: each layer skipped.
        lens: each layer read.
        patching: streams patched.
        folder: where all three are saved.
    """

    ablation: AblationResult
    lens: LensResult
    patching: PatchingResult
    folder: Path


def measure_model(
    model: Model, tasks: Sequence[Task], asked: Mapping[str, Any], runs: Path
) -> ModelResults:
    """Skip, read and patch the layers of a model.

    Args:
        model: the model.
        tasks: what it is asked.
        asked: the configuration.
        runs: where interrupted runs go on.
    """
    made = ModelResults(
        lw.ablate(model, tasks, asked["protocols"], out=runs / "ablation"),
        lw.logit_lens(model, tasks, "continuation", out=runs / "lens"),
        lw.patch_activations(
            model, tasks, positions="last", pairs=asked["pairs"], out=runs / "patching"
        ),
        runs / "joined",
    )
    for result in (made.ablation, made.lens, made.patching):
        result.save(made.folder)
    return made


def model_tables(one: ModelResults) -> dict[str, pd.DataFrame]:
    """The tables of one model."""
    patched = rows(one.patching.effects(), metric="logit difference", pos_label="last")
    return {
        "signal": one.ablation.signal(),
        "layers": rows(one.ablation.effects(), kind="skip", site="layer"),
        "lens": answers_on_top(one.lens.lens),
        "patching": patched,
    }
