"""What lenses, patching and attribution say about each task: progress over the layers.

Evidence itself, and that of ablation, is in ``stats.layer_curves``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd
from jaxtyping import Float

from layerwise import stats
from layerwise.analyses.attribution.tables import SUBLAYERS, has_signal
from layerwise.analyses.logit_lens.tables import answers_read, covers_a_stack, prediction_depths
from layerwise.analyses.patching.tables import has_signal as pairs_have_signal
from layerwise.stats.effects import Chance
from layerwise.stats.layer_curves import ATTRIBUTION, PATCHING, Evidence, LeftOut, Sampling, partly

_TASK = ["task", "capability", "protocol"]
Signal = Mapping[tuple[str, str], bool]


def lens_evidence(
    lens: pd.DataFrame, chance: Chance, signal: Signal, sampling: Sampling, n_encoder: int = 0
) -> Iterator[Evidence | LeftOut]:
    """Progress of the answer's mean probability from the embedding to the last layer.

    A lens of one stack of an encoder-decoder shows no progress in the other. The curve of a lens
    ends at the model's own answer, right or not; so where no ablation tells whether there is
    signal, right answers must end on top more often than by guessing.

    Not of its log-probability: an embedding read through the unembedding is sure of the wrong
    token, so that the first layer alone brings back most of the nats without any knowledge.
    """
    edges = np.arange(-1, sampling.n_layers)
    depths = prediction_depths(lens, sampling.n_layers, n_encoder)
    why = "the answer's probability does not rise from the embedding to the last layer"
    for _, group in answers_read(lens).groupby(["lens", *_TASK], sort=True):
        name, shown = str(group["lens"].iloc[0]), group.assign(probability=np.exp(group["logprob"]))
        wide = shown.pivot_table(index="item", columns="layer", values="probability")
        columns = wide.columns.to_numpy(dtype=int)
        if n_encoder and covers_a_stack(columns, sampling.n_layers, n_encoder):
            wide = wide.reindex(columns=edges).ffill(axis=1).bfill(axis=1)
        found = _curve(f"{name} lens", group, wide, edges, signal, sampling, why)
        if isinstance(found, Evidence):
            named = {"lens": name, "task": found.task, "protocol": found.protocol}
            mine = depths.loc[(depths[list(named)] == list(named.values())).all(axis=1)]
            found = _with_settled(found, mine, chance(found.task, found.protocol), sampling)
            if found.settled is None and (found.task, found.protocol) not in signal:
                guessed = "no signal: right answers end on top no more often than by guessing"
                found = LeftOut(*_key(found.method, group), guessed)
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
    patching: pd.DataFrame, signal: Signal, sampling: Sampling, n_encoder: int = 0
) -> Iterator[Evidence | LeftOut]:
    """Share recovered by patching the residual stream where the answer is read.

    That is the last position; in an encoder-decoder the decoder's, which holds nothing while the
    encoder runs. ``resid_pre`` of a layer is what the layers before it have written, so its value
    stands before that layer. After the last layer the whole is recovered by definition, of pairs
    that a model solves by luck, too; so it must solve more of them than it reverses.
    """
    label, where = ("answer", "answer's") if n_encoder else ("last", "last")
    chosen = patching["site"].eq("resid_pre") & patching["pos_label"].eq(label)
    chosen &= patching["direction"].eq("denoising")
    gains = patching.assign(
        gain=patching["patched_diff"] - patching["corrupted_diff"],
        whole=patching["clean_diff"] - patching["corrupted_diff"],
    )
    for _, every in gains.groupby(_TASK, sort=True):
        key = _key(PATCHING, every)
        group = every.loc[chosen.loc[every.index]]
        if group.empty:
            yield LeftOut(*key, f"no resid_pre at the {where} position")
            continue
        wide = group.pivot_table(index="item", columns="layer", values="gain")
        whole = group.groupby("item")["whole"].mean()
        wide = wide.assign(**{str(sampling.n_layers): whole})
        wide = _while_the_encoder_runs(wide, n_encoder)
        edges = np.arange(sampling.n_layers + 1)
        why = "the clean and the corrupted run do not differ"
        told = _and_signal(signal, key, pairs_have_signal(group) is not False)
        yield _curve(PATCHING, group, wide, edges, told, sampling, why)


def attribution_evidence(
    attribution: pd.DataFrame, signal: Signal, sampling: Sampling, n_encoder: int = 0
) -> Iterator[Evidence | LeftOut]:
    """Progress of the answer's logit difference by what each layer itself adds to it.

    It starts with what the embedding adds and ends with the last layer; biases of the final
    norm and of the unembedding are no layer's. Signal is that of the attributed items. In an
    encoder-decoder nothing is written where the answer is read while the encoder runs.
    """
    edges = np.arange(-1, sampling.n_layers)
    written = attribution["component"].isin(["embedding", *SUBLAYERS])
    written &= attribution["layer"].isna() | (attribution["layer"] >= n_encoder)
    chosen = attribution.loc[written & (attribution["metric"] == "logit_diff")]
    why = "the layers together do not add to the answer's logit difference"
    for _, group in chosen.groupby(_TASK, sort=True):
        key = _key(ATTRIBUTION, group)
        placed = group.assign(layer=group["layer"].fillna(-1))
        wide = placed.pivot_table(index="item", columns="layer", values="value", aggfunc="sum")
        wide = _while_the_encoder_runs(wide, n_encoder)
        told = _and_signal(signal, key, has_signal(group))
        yield _curve(ATTRIBUTION, group, wide.cumsum(axis=1), edges, told, sampling, why)


def _and_signal(signal: Signal, key: tuple[str, str, str, str], found: bool) -> Signal:
    """The signal of tasks, where that of one is also asked of what a method measured itself."""
    place = key[3], key[1]
    return {**signal, place: signal.get(place, True) and found}


def _while_the_encoder_runs(wide: pd.DataFrame, n_encoder: int) -> pd.DataFrame:
    """Items by layer with 0 at the encoder's, where there is no position to read yet."""
    zeros = pd.DataFrame(0.0, index=wide.index, columns=range(n_encoder))
    wide = wide.set_axis([int(column) for column in wide.columns], axis=1)
    return pd.concat([zeros, wide], axis=1).sort_index(axis=1)


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
        return LeftOut(*key, partly("read", wide.shape[1], len(edges)))
    if not signal.get((task, protocol), True):
        return LeftOut(*key, "no signal: the intact model is not above chance")
    if not np.isfinite(values).all():
        return LeftOut(*key, "some values are missing or infinite")
    means = stats.resampled_means(values, sampling.indices(task, len(values)))
    # recovered shares start at what the embedding recovers, the others at 0
    curve = _recovered if method == PATCHING else _gained
    whole = means[:, -1:] - (0 if method == PATCHING else means[:, :1])
    if len(values) < 2 or not stats.percentile_bounds(whole[1:], 0.95).low[0] > 0:
        return LeftOut(*key, why if len(values) > 1 else "a single item")
    items = tuple(map(str, wide.index))
    return Evidence(method, capability, protocol, task, items, values, curve, curve(means))


def _recovered(means: Float[np.ndarray, "draws edges"]) -> Float[np.ndarray, "draws edges"]:
    whole = means[:, -1:]
    return means / np.where(whole > 0, whole, np.nan)


def _gained(means: Float[np.ndarray, "draws edges"]) -> Float[np.ndarray, "draws edges"]:
    return _recovered(means - means[:, :1])


def _key(method: str, group: pd.DataFrame) -> tuple[str, str, str, str]:
    task, capability, protocol = (str(group[column].iloc[0]) for column in _TASK)
    return capability, protocol, method, task
