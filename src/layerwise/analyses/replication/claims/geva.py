"""Geva, Bastings, Filippova and Globerson 2023: how attributes of a subject are recalled."""

from __future__ import annotations

import numpy as np

from layerwise.stats.contrasts import Contrast

from ..claim import ClaimTest, Needs, NoTest, Number, Outcome, PublishedClaim, Source
from ..depth import ONE_LAYER
from ..evidence import Evidence
from ..restored import Restored
from .meng import RECALL

GEVA = Source(
    "Geva et al. 2023",
    "Dissecting Recall of Factual Associations in Auto-Regressive Language Models",
    "arXiv:2304.14767",
)
_SIDES = {"MLPs, last changed token": ("mlp_out", "last changed"),
          "attention, last token": ("attn_out", "last")}  # fmt: skip


def enriched_before_extracted(evidence: Evidence) -> list[Outcome]:
    """The half of geva-1 that needs no cut edges of attention."""
    restored = Restored.from_evidence(evidence, tuple(_SIDES.values()))
    if isinstance(restored, NoTest):
        return [restored]
    ones = np.ones(evidence.n_layers)
    centres = {name: restored.centre(where) for name, where in _SIDES.items()}
    # A mean layer is one of something: either side must bring anything back.
    nothing = max(restored.share(where, ones).p_above() for where in _SIDES.values())
    mlps, attention = centres.values()
    found = mlps is not None and attention is not None
    gap = attention.minus(mlps) if found else Contrast(np.nan, np.zeros(0))
    note = "" if found else "Restored outputs bring nothing back on one of the sides."
    return [
        ClaimTest(
            "", "layers", "deeper in attention at the last token than in MLPs at the last changed "
            "one, by the mean layer of what comes back",
            Number.from_contrast("attention minus MLPs", gap),
            max(nothing, gap.p_above(ONE_LAYER)), max(nothing, gap.p_below(-ONE_LAYER)),
            gap.error if found else np.nan,
            tuple(Number.from_contrast(f"mean layer, {name}", centre)
                  for name, centre in centres.items() if centre is not None),
            note,
        )
    ]  # fmt: skip


CLAIMS = (
    PublishedClaim(
        "geva-1", GEVA, "abstract",
        "Early MLPs enrich the subject before attention extracts the attribute at the last token.",
        "GPT-2 XL and GPT-J: edges of attention are cut, and sublayers removed at the subject.",
        "what MLPs at the last changed token bring back lies more than one layer before what "
        "attention at the last token brings back, by its mean layer",
        "it lies more than one layer behind",
        "No edge of attention is cut, so that what moves between the two tokens is not seen. Mean "
        "layers of restored states are compared.",
        Needs(RECALL, (), ("patching",)),
        enriched_before_extracted,
    ),
)  # fmt: skip
