"""Lad, Lee, Gurnee and Tegmark 2024: stages of inference, and how robust layers are to removal."""

from __future__ import annotations

import numpy as np

from layerwise.analyses.running_text.result import CHANGES, SWAP, mean_where_finite, text_effects
from layerwise.stats.contrasts import Contrast, layer_weights

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
    Verdict,
    benchmarks,
    no_test,
)
from ..verdicts.evidence import Evidence, nats_contrast

NATS = "nats"
KEPT = 0.72  # the smallest share of the paper's range of 72 to 95 %
_PERCENT = 100
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


def _share_that_stays(evidence: Evidence, kind: str) -> Contrast | None:
    """Mean share of next tokens that stay, over changes of the middle half; None without any."""
    text, middle = text_effects(evidence.tables["text_loss"], kind), evidence.middle
    # Both layers of a swap are in the middle.
    last = middle[-1] - (kind == SWAP)
    chosen = (text.layers >= middle[0]) & (text.layers <= last)
    if not chosen.any() or np.isnan(text.agree).all():
        return None
    return mean_where_finite(text.agree[:, chosen].mean(axis=1), text.clusters)


def predictions_survive(evidence: Evidence) -> list[Outcome]:
    """lad-2."""
    if "text_loss" not in evidence.tables:
        return [NoTest("", Verdict.NOT_ASKED, "No running text was read.")]
    kept = {kind: _share_that_stays(evidence, kind) for kind in CHANGES}
    known = {kind: one for kind, one in kept.items() if one is not None}
    if len(known) < len(kept):
        why = "No layers of the middle half can be swapped: they differ in more than weights."
        return [NoTest("", Verdict.NOT_ASKED, why)]
    nearest = min(known.values(), key=lambda one: abs(one.estimate - KEPT))
    words = {"skip": "a middle layer skipped", SWAP: "two middle layers swapped"}
    return [
        ClaimTest(
            "", "% of next tokens", "that stay, of the change that is nearer to 72 %",
            Number.from_contrast("next tokens that stay", nearest, _PERCENT),
            max(one.p_above(KEPT) for one in known.values()),
            max(one.p_below(KEPT) for one in known.values()),
            _PERCENT * nearest.error,
            tuple(Number.from_contrast(words[kind], one, _PERCENT) for kind, one in known.items()),
        )
    ]  # fmt: skip


CLAIMS = (
    PublishedClaim(
        "lad-1", LAD, "abstract",
        "Removing a layer hurts most at both ends of the model; the middle is robust.",
        "GPT-2, Pythia, Phi, Llama and others, next-token predictions of running text.",
        "the first two layers cost more nats than a layer of the middle half, and so does the last",
        "a layer of the middle half costs more nats than one of either end",
        "Nats of the right answers to questions are read; next tokens of text are in lad-2.",
        Needs({SMALL: ("facts", "kv-words", "arithmetic"),
               FULL: benchmarks("hellaswag")}, ("continuation",)),
        ends_matter_most,
    ),
    PublishedClaim(
        "lad-2", LAD, "abstract",
        "Most next-token predictions survive when a middle layer is deleted or swapped with the "
        "next.",
        "GPT-2, Pythia, Phi, Llama and others: 72 to 95 % of the most likely next tokens of text.",
        "at least 72 % of next tokens stay when a layer of the middle half is skipped, and when "
        "two are swapped",
        "fewer than 72 % stay when one is skipped, and when two are swapped",
        "The text is another one, and 72 % is the lower end of what several models showed.",
        Needs({SMALL: (), FULL: ()}, (), also=("text",)),
        predictions_survive,
    ),
)  # fmt: skip
