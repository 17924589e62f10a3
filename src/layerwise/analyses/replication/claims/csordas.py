"""Csordas, Manning and Potts 2025: whether language models use their depth efficiently."""

from __future__ import annotations

from layerwise.stats.contrasts import layer_weights

from ..verdicts.claim import (
    FULL,
    SMALL,
    Needs,
    Outcome,
    PublishedClaim,
    Source,
    benchmarks,
    hold_every_way,
    no_test,
)
from ..verdicts.depth import Variants, compare_variants
from ..verdicts.evidence import Evidence, nats_contrast

CSORDAS = Source(
    "Csordás et al. 2025", "Do Language Models Use Their Depth Efficiently?", "arXiv:2505.13898"
)
_HOPS = ("hops:hops=1", "hops:hops=2", "hops:hops=3", "hops:hops=4")


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
               FULL: benchmarks("mmlu")}, ("continuation",)),
        second_half_does_less,
    ),
    PublishedClaim(
        "csordas-2", CSORDAS, "abstract",
        "Questions of more hops use no more depth.",
        "Llama 3.1 and Qwen 3 on MQuAKE and MATH: residual erasure and integrated gradients.",
        "the mean layer of what questions of more hops lose is within one layer of that of one "
        "hop, also without layers that both need where other ones are needed too",
        "it is more than one layer deeper, likewise, and a deep and an early layer cross that way",
        "Hops are followed in the context, and each layer is skipped. Questions that need the same "
        "layers and deeper ones too cannot be told from questions that are only more fragile; they "
        "stay open.",
        Needs({SMALL: _HOPS, FULL: _HOPS}, ("continuation", "generate")),
        lambda evidence: compare_variants(
            evidence, [Variants(f"{n} hops", _HOPS[0], _HOPS[n - 1]) for n in (2, 3, 4)]
        ),
    ),
)  # fmt: skip
