"""What skipping layers says about each task: the share of its accuracy that is lost by layer."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from layerwise import stats
from layerwise.stats.effects import ALPHA, Cell, cells
from layerwise.stats.item_curves import ItemCurves, losses_by_item
from layerwise.stats.layer_curves import ABLATION, Evidence, LeftOut, Sampling, Signal, partly
from layerwise.stats.signal import signals

from .result import AblationResult


def signal_by_task(result: AblationResult) -> Signal:
    """Under which protocol the intact model can do which task."""
    table = result.signal()
    keys = zip(table["task"], table["protocol"], strict=True)
    return dict(zip(keys, table["signal"].tolist(), strict=True))


def ablation_evidence(
    result: AblationResult, signal: Signal, sampling: Sampling
) -> Iterator[Evidence | LeftOut]:
    """Share lost by layer when the layer is skipped, per task and protocol."""
    records, chance = result.records, result.facts.chance
    skips = (records["kind"] == "skip") & (records["site"] == "layer")
    every = list(cells(records.loc[skips | (records["kind"] == "intact")]))
    own = signals(every, chance)
    for cell in every:
        key = (cell.capability, cell.protocol, ABLATION, cell.task)
        level = chance(cell.task, cell.protocol)
        found = cell.interventions["layer"].to_numpy(dtype=int)
        if not np.array_equal(found, np.arange(sampling.n_layers)):
            yield LeftOut(*key, partly("skipped", len(found), sampling.n_layers))
        elif not own[cell.task, cell.protocol]:
            yield LeftOut(*key, "no signal: the intact model is not above chance")
        else:
            yield _ablated(cell, level, sampling)


def _ablated(cell: Cell, chance: float, sampling: Sampling) -> Evidence:
    intact, correct = cell.intact[:, None], cell.correct
    indices = sampling.indices(cell.task, len(intact))
    changes = np.concatenate([intact & ~correct, ~intact & correct], axis=1)
    lost, gained = np.split(stats.resampled_means(changes, indices), 2, axis=1)
    counts = (np.rint(part * len(intact)).astype(int) for part in (lost, gained))
    critical = (stats.holm(stats.mcnemar_p_values(*counts)) < ALPHA) & (lost > gained)
    values = np.concatenate([intact, correct], axis=1).astype(float)
    curve = partial(_shares_lost, chance=chance)
    return Evidence(
        ABLATION, cell.capability, cell.protocol, cell.task, cell.items, values, curve,
        partial(_by_item, chance=chance), curve(stats.resampled_means(values, indices)), critical,
    )  # fmt: skip


def _by_item(values: np.ndarray, chance: float) -> ItemCurves:
    return losses_by_item(values[:, 0], values[:, 1:], chance)


def _shares_lost(means: np.ndarray, chance: float) -> np.ndarray:
    return stats.shares(means[:, :1], means[:, 1:], chance)
