"""What each method says about each task, layer by layer, in the sample and in resamples.

Joining tasks to capabilities and naming depths is ``emergence``'s business.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from layerwise import stats
from layerwise._effects import ALPHA, Cell, Chance, cells
from layerwise._lens_tables import answers_read, prediction_depths

_TASK = ["task", "capability", "protocol"]
Signal = Mapping[tuple[str, str], bool]


class Evidence(NamedTuple):
    """One method's curve for one task under one protocol; row 0 is the sample itself.

    Attributes:
        method: ``ablation``, ``logit lens``, ``tuned lens`` or ``activation patching``.
        capability: the task's capability.
        protocol: the protocol.
        task: the task.
        n_items: number of items.
        rows: ablation: share lost by layer; otherwise: progress before each layer and after
            the last, one column more. nan where a resample has no share.
        critical: ablation: whether skipping each layer does significant harm; otherwise None.
        settled: lenses: mean layer from which right answers stay on top; otherwise None. nan
            where a resample has no right answer.
        n_right: lenses: number of right answers.
    """

    method: str
    capability: str
    protocol: str
    task: str
    n_items: int
    rows: Float[np.ndarray, "draws columns"]
    critical: Bool[np.ndarray, "draws layers"] | None = None
    settled: Float[np.ndarray, " draws"] | None = None
    n_right: int = 0


class LeftOut(NamedTuple):
    """What no claim is made about; ``task`` is None for a whole capability."""

    capability: str
    protocol: str
    method: str
    task: str | None
    reason: str


class Sampling(NamedTuple):
    """The resampling that all methods share, and the model's number of layers."""

    seed: int
    n_resamples: int
    n_layers: int

    def indices(self, task: str, n: int) -> np.ndarray:
        """The sample itself, then resamples: the same for a task wherever it is asked."""
        drawn = stats.resample_indices(n, self.n_resamples, stats.generator(self.seed, task))
        return np.concatenate([np.arange(n)[None], drawn])


def ablation_evidence(
    records: pd.DataFrame, chance: Mapping[tuple[str, str], float], sampling: Sampling
) -> Iterator[Evidence | LeftOut]:
    """Share lost by layer when the layer is skipped, per task and protocol."""
    skips = (records["kind"] == "skip") & (records["site"] == "layer")
    for cell in cells(records.loc[skips | (records["kind"] == "intact")]):
        key = (cell.capability, cell.protocol, "ablation", cell.task)
        level = chance[cell.task, cell.protocol]
        found = cell.interventions["layer"].to_numpy(dtype=int)
        if not np.array_equal(found, np.arange(sampling.n_layers)):
            yield LeftOut(*key, _partly("skipped", len(found), sampling.n_layers))
        elif not stats.above_chance(cell.intact, level):
            yield LeftOut(*key, "no signal: the intact model is not above chance")
        else:
            yield _ablated(cell, level, sampling)


def _ablated(cell: Cell, chance: float, sampling: Sampling) -> Evidence:
    intact, correct = cell.intact[:, None], cell.correct
    indices = sampling.indices(cell.task, len(intact))
    columns = np.concatenate([intact, correct, intact & ~correct, ~intact & correct], axis=1)
    means = stats.resampled_means(columns, indices)
    n = sampling.n_layers
    before, after, lost, gained = np.split(means, [1, 1 + n, 1 + 2 * n], axis=1)
    counts = (np.rint(part * len(intact)).astype(int) for part in (lost, gained))
    critical = (stats.holm(stats.mcnemar_p_values(*counts)) < ALPHA) & (lost > gained)
    rows = stats.shares(before, after, chance)
    return Evidence(
        "ablation", cell.capability, cell.protocol, cell.task, len(intact), rows, critical
    )


def lens_evidence(
    lens: pd.DataFrame, chance: Chance, signal: Signal, sampling: Sampling
) -> Iterator[Evidence | LeftOut]:
    """Progress of the answer's mean probability from the embedding to the last layer.

    Not of its log-probability: an embedding read through the unembedding is sure of the wrong
    token, so that the first layer alone brings back most of the nats without any knowledge.
    """
    edges = np.arange(-1, sampling.n_layers)
    depths = prediction_depths(lens, sampling.n_layers)
    why = "the answer's probability does not rise from the embedding to the last layer"
    for _, group in answers_read(lens).groupby(["lens", *_TASK], sort=True):
        name, shown = str(group["lens"].iloc[0]), group.assign(probability=np.exp(group["logprob"]))
        wide = shown.pivot_table(index="item", columns="layer", values="probability")
        found = _curve(f"{name} lens", group, wide, edges, signal, sampling, why)
        if isinstance(found, Evidence):
            named = {"lens": name, "task": found.task, "protocol": found.protocol}
            mine = depths.loc[(depths[list(named)] == list(named.values())).all(axis=1)]
            found = _with_settled(found, mine, chance(found.task, found.protocol), sampling)
        yield found


def _with_settled(
    evidence: Evidence, depths: pd.DataFrame, chance: float, sampling: Sampling
) -> Evidence:
    """Add from which layer on right answers stay on top, if they end there more than by chance.

    An answer that is on top from the embedding on counts as layer 0.
    """
    right = depths["right"].to_numpy(dtype=bool)
    if right.sum() < 2 or not stats.above_chance(right, chance):
        return evidence
    layers = depths["layer"].to_numpy(dtype=float).clip(min=0)
    means = stats.resampled_means(
        np.column_stack([right * layers, right]), sampling.indices(evidence.task, len(right))
    )
    settled = means[:, 0] / np.where(means[:, 1] > 0, means[:, 1], np.nan)
    return evidence._replace(settled=settled, n_right=int(right.sum()))


def patching_evidence(
    patching: pd.DataFrame, signal: Signal, sampling: Sampling
) -> Iterator[Evidence | LeftOut]:
    """Share recovered by patching the residual stream at the last position.

    ``resid_pre`` of a layer is what the layers before it have written, so its value stands
    before that layer. After the last layer the whole is recovered by definition.
    """
    chosen = patching["site"].eq("resid_pre") & patching["pos_label"].eq("last")
    chosen &= patching["direction"].eq("denoising")
    gains = patching.assign(
        gain=patching["patched_diff"] - patching["corrupted_diff"],
        whole=patching["clean_diff"] - patching["corrupted_diff"],
    )
    for _, every in gains.groupby(_TASK, sort=True):
        group = every.loc[chosen.loc[every.index]]
        if group.empty:
            yield LeftOut(*_key("activation patching", every), "no resid_pre at the last position")
            continue
        wide = group.pivot_table(index="item", columns="layer", values="gain")
        whole = group.groupby("item")["whole"].mean()
        wide = wide.assign(**{str(sampling.n_layers): whole})
        wide.columns = [int(column) for column in wide.columns]
        edges = np.arange(sampling.n_layers + 1)
        why = "the clean and the corrupted run do not differ"
        yield _curve("activation patching", group, wide, edges, signal, sampling, why)


def _curve(
    method: str,
    group: pd.DataFrame,
    wide: pd.DataFrame,
    edges: np.ndarray,
    signal: Signal,
    sampling: Sampling,
    why: str,
) -> Evidence | LeftOut:
    """Means over items by edge, as shares of the way to the last edge."""
    key = _key(method, group)
    capability, protocol, _, task = key
    values = wide.to_numpy(dtype=float)
    if not np.array_equal(wide.columns.to_numpy(dtype=int), edges):
        return LeftOut(*key, _partly("read", wide.shape[1], len(edges)))
    if not signal.get((task, protocol), True):
        return LeftOut(*key, "no signal: the intact model is not above chance")
    if not np.isfinite(values).all():
        return LeftOut(*key, "some values are missing or infinite")
    means = stats.resampled_means(values, sampling.indices(task, len(values)))
    # recovered shares start at what the embedding recovers, log-probabilities at 0
    start = means[:, :1] if method.endswith(" lens") else np.zeros_like(means[:, :1])
    whole = means[:, -1:] - start
    if len(values) < 2 or not stats.percentile_bounds(whole[1:], 0.95).low[0] > 0:
        return LeftOut(*key, why if len(values) > 1 else "a single item")
    rows = (means - start) / np.where(whole > 0, whole, np.nan)
    return Evidence(method, capability, protocol, task, len(values), rows)


def _key(method: str, group: pd.DataFrame) -> tuple[str, str, str, str]:
    task, capability, protocol = (str(group[column].iloc[0]) for column in _TASK)
    return capability, protocol, method, task


def _partly(done: str, found: int, expected: int) -> str:
    return f"{done} at {found} of {expected} places: the curve over layers has gaps"
