"""Csordas, Manning and Potts 2025: whether language models use their depth efficiently."""

from __future__ import annotations

from layerwise.stats.contrasts import layer_weights

from ..claim import FULL, SMALL, Needs, Outcome, PublishedClaim, Source, hold_every_way, no_test
from ..evidence import Evidence, nats_contrast

CSORDAS = Source(
    "Csordás et al. 2025", "Do Language Models Use Their Depth Efficiently?", "arXiv:2505.13898"
)


def second_half_does_less(evidence: Evidence) -> list[Outcome]:
    """csordas-1."""
    (chosen,) = evidence.cells_under("continuation")
    if not chosen:
        return [no_test(evidence, "", "choosing", "continuation")]
    layers = chosen[0].interventions["layer"].to_numpy(dtype=int)
    first, second = evidence.halves
    ways = {"all layers": (first, second), "without the first and last": (first[1:], second[:-1])}
    each = {
        f"{name}: first half minus second": nats_contrast(chosen, layer_weights(layers, *way))
        for name, way in ways.items()
    }
    effect = "more without a layer of the first half than of the second"
    return [
        hold_every_way("", "nats", effect, "first half minus second, the smaller of both", each)
    ]


CLAIMS = (
    PublishedClaim(
        "csordas-1", CSORDAS, "abstract",
        "Layers of the second half change the output much less than those of the first.",
        "Llama 3.1, Qwen 3 and OLMo 2: sizes of contributions, and effects of skipped layers.",
        "a layer of the first half costs more nats, with all layers and without the first and last",
        "a layer of the second half costs more nats, both ways",
        "Norms of contributions and effects on later tokens are not measured.",
        Needs({SMALL: ("facts", "kv-words", "arithmetic"),
               FULL: ("benchmark:mmlu:data={data}/mmlu",)}, ("continuation",)),
        second_half_does_less,
    ),
)  # fmt: skip
