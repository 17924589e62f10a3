"""What direct attribution says about each task: the logit difference as layers add to it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from layerwise.stats.layer_curves import (
    ATTRIBUTION,
    TASK,
    Evidence,
    LeftOut,
    Sampling,
    Signal,
    progress,
    task_key,
    while_the_encoder_runs,
    with_own_signal,
)

from .result import AttributionResult
from .tables import SUBLAYERS, attribution_signals


def attribution_evidence(
    result: AttributionResult, signal: Signal, sampling: Sampling
) -> Iterator[Evidence | LeftOut]:
    """Progress of the answer's logit difference by what each layer itself adds to it.

    It starts with what the embedding adds and ends with the last layer; biases of the final
    norm and of the unembedding are no layer's. Signal is that of the attributed items. In an
    encoder-decoder nothing is written where the answer is read while the encoder runs.
    """
    attribution, n_encoder = result.attribution, result.facts.model.n_encoder_layers
    edges, own = np.arange(-1, sampling.n_layers), attribution_signals(attribution)
    written = attribution["component"].isin(["embedding", *SUBLAYERS])
    written &= attribution["layer"].isna() | (attribution["layer"] >= n_encoder)
    chosen = attribution.loc[written & (attribution["metric"] == "logit_diff")]
    why = "the layers together do not add to the answer's logit difference"
    for _, group in chosen.groupby(TASK, sort=True):
        key = task_key(ATTRIBUTION, group)
        placed = group.assign(layer=group["layer"].fillna(-1))
        wide = placed.pivot_table(index="item", columns="layer", values="value", aggfunc="sum")
        wide = while_the_encoder_runs(wide, n_encoder)
        told = with_own_signal(signal, key, own[key[3], key[1]])
        yield progress(ATTRIBUTION, group, wide.cumsum(axis=1), edges, told, sampling, why)
