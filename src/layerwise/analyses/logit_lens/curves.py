"""What lenses say about each task: how the answer's probability rises over the layers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from layerwise.stats.clusters import clusters_of
from layerwise.stats.item_curves import settled_by_item
from layerwise.stats.layer_curves import Evidence, LeftOut, Sampling, Signal, mean_of_right
from layerwise.stats.progress import TASK, progress, task_key

from .result import LensResult
from .tables import answers_read, covers_a_stack, prediction_depths


def lens_evidence(
    result: LensResult, signal: Signal, sampling: Sampling
) -> Iterator[Evidence | LeftOut]:
    """Progress of the answer's mean probability from the embedding to the last layer.

    A lens of one stack of an encoder-decoder shows no progress in the other. The curve of a lens
    ends at the model's own answer, right or not; so where no ablation tells whether there is
    signal, right answers must end on top more often than blind.

    Not of its log-probability: an embedding read through the unembedding is sure of the wrong
    token, so that the first layer alone brings back most of the nats without any knowledge.
    """
    lens, own = result.lens, result.signals()
    n_encoder = result.facts.model.n_encoder_layers
    edges = np.arange(-1, sampling.n_layers)
    depths = prediction_depths(lens, sampling.n_layers, n_encoder)
    why = "the answer's probability does not rise from the embedding to the last layer"
    for _, group in answers_read(lens).groupby(["lens", *TASK], sort=True):
        name, shown = str(group["lens"].iloc[0]), group.assign(probability=np.exp(group["logprob"]))
        wide = shown.pivot_table(index="item", columns="layer", values="probability")
        columns = wide.columns.to_numpy(dtype=int)
        if n_encoder and covers_a_stack(columns, sampling.n_layers, n_encoder):
            wide = wide.reindex(columns=edges).ffill(axis=1).bfill(axis=1)
        found = progress(f"{name} lens", group, wide, edges, signal, sampling, why)
        if isinstance(found, Evidence):
            named = {"lens": name, "task": found.task, "protocol": found.protocol}
            mine = depths.loc[(depths[list(named)] == list(named.values())).all(axis=1)]
            found = _with_settled(found, mine, own[found.task, found.protocol], sampling)
            if found.settled is None and (found.task, found.protocol) not in signal:
                guessed = "no signal: right answers end on top no more often than blind"
                found = LeftOut(*task_key(found.method, group), guessed)
        yield found


def _with_settled(
    evidence: Evidence, depths: pd.DataFrame, signal: bool, sampling: Sampling
) -> Evidence:
    """Add from which layer on right answers stay on top, if they end there more than blind.

    An answer that is on top from the embedding on counts as layer 0.
    """
    right = depths["right"].to_numpy(dtype=bool)
    if right.sum() < 2 or not signal:
        return evidence
    layers = depths["layer"].to_numpy(dtype=float).clip(min=0)
    clusters = clusters_of(depths, depths["item"].tolist())
    settling = np.column_stack([right * layers, right])
    settled = mean_of_right(sampling.means(evidence.task, settling, clusters))
    curves = settled_by_item(layers, right, sampling.n_layers, clusters)
    return evidence._replace(
        settled=settled, n_right=int(right.sum()), settled_curves=curves, settling=settling
    )
