"""Geva, Bastings, Filippova and Globerson 2023: how attributes of a subject are recalled."""

from __future__ import annotations

import numpy as np

from layerwise.stats.contrasts import Contrast, layer_weights

from ..verdicts.claim import ClaimTest, Needs, NoTest, Number, Outcome, PublishedClaim, Source
from ..verdicts.depth import ONE_LAYER
from ..verdicts.evidence import Evidence
from ..verdicts.restored import Restored
from .meng import RECALL

GEVA = Source(
    "Geva et al. 2023",
    "Dissecting Recall of Factual Associations in Auto-Regressive Language Models",
    "arXiv:2304.14767",
)
_MLPS, _ATTENTION = "MLPs, last changed token", "attention, last token"
_SIDES = {_MLPS: ("mlp_out", "last changed"), _ATTENTION: ("attn_out", "last")}
_NOTHING = Contrast(np.nan, np.zeros(0))


def attention_lies_behind_mlps(evidence: Evidence) -> list[Outcome]:
    """The half of geva-1 that needs no cut edges of attention."""
    restored = Restored.from_evidence(evidence, tuple(_SIDES.values()))
    if isinstance(restored, NoTest):
        return [restored]
    every = range(evidence.n_layers)
    # The first MLP tells tokens apart, so that it may bring back a subject rather than a fact.
    ways = {"all layers": every, "without the first and last": every[1:-1]}
    centres = {
        (name, side): restored.centre(where, layers)
        for name, layers in ways.items()
        for side, where in _SIDES.items()
    }
    # A mean layer is one of something: either side must bring anything back.
    nothing = max(
        restored.share(where, layer_weights(np.array(every), layers)).p_above()
        for layers in ways.values()
        for where in _SIDES.values()
    )
    known = {key: centre for key, centre in centres.items() if centre is not None}
    gaps = [
        known[name, _ATTENTION].minus(known[name, _MLPS])
        for name in ways
        if {(name, _ATTENTION), (name, _MLPS)} <= known.keys()
    ]
    whole = len(gaps) == len(ways)
    nearest = min(gaps, key=lambda gap: abs(gap.estimate)) if whole else _NOTHING
    return [
        ClaimTest(
            "", "layers", "deeper in attention at the last token than in MLPs at the last changed "
            "one, by the mean layer of what comes back",
            Number.from_contrast("attention minus MLPs, the smaller of both", nearest),
            max(nothing, *(gap.p_above(ONE_LAYER) for gap in gaps)) if whole else 1.0,
            max(nothing, *(gap.p_below(-ONE_LAYER) for gap in gaps)) if whole else 1.0,
            nearest.error if whole else np.nan,
            tuple(Number.from_contrast(f"mean layer, {side}, {name}", centre)
                  for (name, side), centre in known.items()),
            "" if whole else "Restored outputs bring nothing back on one of the sides.",
        )
    ]  # fmt: skip


CLAIMS = (
    PublishedClaim(
        "geva-1", GEVA, "abstract",
        "Early MLPs enrich the subject before attention extracts the attribute at the last token.",
        "GPT-2 XL and GPT-J: edges of attention are cut, and sublayers removed at the subject.",
        "what MLPs at the last changed token bring back lies more than one layer before what "
        "attention at the last token brings back, by its mean layer, with and without the first "
        "and last layer",
        "it lies more than one layer behind, both ways",
        "No edge of attention is cut, so that what moves between the two tokens is not seen. Mean "
        "layers of restored states are compared.",
        Needs(RECALL, (), ("patching",)),
        attention_lies_behind_mlps,
    ),
)  # fmt: skip
