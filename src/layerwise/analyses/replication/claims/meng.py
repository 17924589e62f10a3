"""Meng, Bau, Andonian and Belinkov 2022: where a model recalls facts."""

from __future__ import annotations

import numpy as np

from layerwise.stats.contrasts import layer_weights

from ..verdicts.claim import (
    FULL,
    SMALL,
    ClaimTest,
    Needs,
    NoTest,
    Number,
    Outcome,
    PublishedClaim,
    Source,
    benchmarks,
)
from ..verdicts.evidence import Evidence
from ..verdicts.restored import Restored

MENG = Source(
    "Meng et al. 2022", "Locating and Editing Factual Associations in GPT", "arXiv:2202.05262"
)
_PERCENT = 100
_MLP, _ATTENTION = ("mlp_out", "last changed"), ("attn_out", "last changed")


def middle_mlps_recall(evidence: Evidence) -> list[Outcome]:
    """meng-1."""
    restored = Restored.from_evidence(evidence, (_MLP, _ATTENTION))
    if isinstance(restored, NoTest):
        return [restored]
    layers, (early, middle, deep) = np.arange(evidence.n_layers), evidence.thirds
    # The first MLP tells tokens apart, so that it may bring back a subject rather than a fact.
    ways = {"early": early, "early (but the first)": early[1:], "deep": deep,
            "deep (but the last)": deep[:-1]}  # fmt: skip
    beyond = {
        name: restored.share(_MLP, layer_weights(layers, middle, less))
        for name, less in ways.items()
    }
    attention = restored.share(_ATTENTION, layer_weights(layers, middle))
    over = restored.share(_MLP, layer_weights(layers, middle)).minus(attention)
    every = {**{f"middle MLPs minus {name} ones": one for name, one in beyond.items()},
             "middle MLPs minus middle attention": over}  # fmt: skip
    least = min(every.values(), key=lambda one: one.estimate)
    less = [one.p_below() for one in beyond.values()]
    return [
        ClaimTest(
            "", "% of the way", "more by a middle MLP than by others, where it is least",
            Number.from_contrast("middle MLPs minus others, the smallest", least, _PERCENT),
            max(one.p_above() for one in every.values()),
            min(1.0, 2 * min(max(less[:2]), max(less[2:]))),
            _PERCENT * least.error,
            tuple(Number.from_contrast(*one, _PERCENT) for one in every.items()),
        )
    ]  # fmt: skip


RECALL = {SMALL: ("facts",), FULL: benchmarks("known_1000")}

CLAIMS = (
    PublishedClaim(
        "meng-1", MENG, "abstract and second figure",
        "Facts are recalled by MLPs of middle layers while the subject is read, at its last token.",
        "GPT-2 XL and others: the subject's embeddings are noised, and clean states restored in "
        "windows of layers.",
        "at the last token of what differs, an MLP of the middle third brings back more of the "
        "answer than one of the first and of the last third, with and without the first and last "
        "layer, and than attention of the middle third",
        "an MLP of the first or of the last third brings back more than one of the middle, with "
        "and without the first and last layer",
        "Another subject stands in place of noise, and states of single layers are restored. Where "
        "a fact can be edited is another matter.",
        Needs(RECALL, (), ("patching",)),
        middle_mlps_recall,
    ),
)  # fmt: skip
