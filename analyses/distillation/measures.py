"""Measurements of each model in this study, and the layers of a capability in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.stats import t

import layerwise as lw
from layerwise.models.instance.kinds import Model
from layerwise.presentation.rows import rows
from layerwise.results import AblationResult, LensResult, PatchingResult
from layerwise.stats.items.clusters import clusters_from_table
from layerwise.tasks import Task

# The teachers do two hops in these of their eight layers.
REASONING, N_TEACHER = (2, 3, 4), 8


class ModelResults(NamedTuple):
    """The results of one model.

    Attributes:
        ablation: each layer skipped, under the protocols that choose and say words.
        letters: the intact model asked by letter.
        lens: each layer read.
        patching: streams patched.
        folder: where all but ``letters`` is saved.
    """

    ablation: AblationResult
    letters: AblationResult
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
    letter = [one for one in asked["protocols"] if one == "letter"]
    words = [one for one in asked["protocols"] if one != "letter"]
    made = ModelResults(
        lw.ablate(model, tasks, words, out=runs / "ablation"),
        lw.ablate(model, tasks, letter, layers=[0], out=runs / "letters"),
        lw.logit_lens(model, tasks, "continuation", out=runs / "lens"),
        lw.patch_activations(
            model, tasks, positions="last", pairs=asked["pairs"], out=runs / "patching"
        ),
        runs / "joined",
    )
    for result in (made.ablation, made.lens, made.patching):
        result.save(made.folder)
    return made


def places(records: pd.DataFrame, task: str, n_layers: int) -> pd.DataFrame:
    """Of what skipping costs, the share in the layers that do two hops in the teachers.

    All losses of single layers are added up, gains counted against; a layer of a model of another
    depth counts by the share of it that lies at the relative depth of the teachers' layers.

    Args:
        records: ``records.parquet``.
        task: whose losses.
        n_layers: of the model.
    """
    found = []
    for protocol, group in rows(records, task=task).groupby("protocol"):
        losses = losses_by_layer(group, n_layers)
        inside = losses @ overlap(n_layers)
        share, low, high = fieller(inside, losses.sum(1))
        found.append(
            {"task": task, "protocol": protocol, "n_items": len(losses), "share": share,
             "low": low, "high": high}
        )  # fmt: skip
    return pd.DataFrame(found)


def losses_by_layer(records: pd.DataFrame, n_layers: int) -> Float[np.ndarray, "clusters layers"]:
    """Cost of skipping each layer, of the items that ask for the same together."""
    intact = rows(records, kind="intact").set_index("item")["correct"].astype(float)
    skips = rows(records, kind="skip", site="layer")
    right = skips.pivot(index="item", columns="layer", values="correct").astype(float)
    codes = clusters_from_table(skips, right.index).codes
    lost = (-right[range(n_layers)]).add(intact.reindex(right.index), axis=0)
    return lost.groupby(codes).sum().to_numpy()


def overlap(n_layers: int) -> Float[np.ndarray, " layers"]:
    """Share of each layer that lies at the relative depth of the teachers' reasoning layers."""
    ends = np.arange(n_layers + 1) / n_layers
    low, high = REASONING[0] / N_TEACHER, (REASONING[-1] + 1) / N_TEACHER
    inside = np.minimum(ends[1:], high) - np.maximum(ends[:-1], low)
    return np.clip(inside, 0, None) * n_layers


def fieller(
    part: Float[np.ndarray, " n"], whole: Float[np.ndarray, " n"]
) -> tuple[float, float, float]:
    """Ratio of two means with Fieller's 95 % interval (1954, J. R. Stat. Soc. B 16).

    All ratios that Student's t does not reject; from minus to plus infinity where it rejects none
    far away, as the whole is not away from 0.
    """
    n, at = len(part), t.ppf(0.975, len(part) - 1)
    cov = np.cov(part, whole) / n
    a = whole.mean() ** 2 - at**2 * cov[1, 1]
    b = part.mean() * whole.mean() - at**2 * cov[0, 1]
    c = part.mean() ** 2 - at**2 * cov[0, 0]
    if a <= 0:
        return np.nan, -np.inf, np.inf
    half = np.sqrt(max(b**2 - a * c, 0.0)) / a
    return float(part.mean() / whole.mean()), float(b / a - half), float(b / a + half)
