"""Lad, Lee, Gurnee and Tegmark 2024: stages of inference, and how robust layers are to removal."""

from __future__ import annotations

from layerwise.stats.contrasts import layer_weights

from ..claim import FULL, SMALL, ClaimTest, Needs, Number, Outcome, PublishedClaim, Source, no_test
from ..evidence import Evidence, nats_contrast

NATS = "nats"
LAD = Source(
    "Lad et al. 2024", "The Remarkable Robustness of LLMs: Stages of Inference?", "arXiv:2406.19384"
)


def ends_matter_most(evidence: Evidence) -> list[Outcome]:
    """lad-1."""
    (chosen,) = evidence.cells_under("continuation")
    if not chosen:
        return [no_test(evidence, "", "choosing", "continuation")]
    layers, n = chosen[0].interventions["layer"].to_numpy(dtype=int), evidence.n_layers
    ends = {"first two layers": [0, 1], "last layer": [n - 1]}
    each = {
        name: nats_contrast(chosen, layer_weights(layers, end, evidence.middle))
        for name, end in ends.items()
    }
    least = min(each.values(), key=lambda one: one.estimate)
    p_less = [one.p_below() for one in each.values()]
    return [
        ClaimTest(
            "", NATS, "more without the first or last layers than a middle one",
            Number.from_contrast("an end minus the middle half, the smaller of both", least),
            max(one.p_above() for one in each.values()), min(1.0, 2 * min(p_less)), least.error,
            tuple(Number.from_contrast(f"{name} minus the middle half", one)
                  for name, one in each.items()),
        )
    ]  # fmt: skip


CLAIMS = (
    PublishedClaim(
        "lad-1", LAD, "abstract",
        "Removing a layer hurts most at both ends of the model; the middle is robust.",
        "GPT-2, Pythia, Phi, Llama and others, next-token predictions of running text.",
        "the first two layers cost more nats than a layer of the middle half, and so does the last",
        "a layer of the middle half costs more nats than one of either end",
        "Nats of the right answer are read, not the share of next tokens that stay.",
        Needs({SMALL: ("facts", "kv-words", "arithmetic"),
               FULL: ("benchmark:hellaswag:data={data}/hellaswag",)}, ("continuation",)),
        ends_matter_most,
    ),
)  # fmt: skip
