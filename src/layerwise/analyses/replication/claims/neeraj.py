"""Neeraj 2026, and Naim et al. 2026: losses of text and of reasoning, and gains without a layer."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from layerwise.analyses.running_text.result import SKIP, text_effects
from layerwise.stats import generator
from layerwise.stats.cells import Cell
from layerwise.stats.contrasts import Contrast, mean_contrast
from layerwise.stats.families.rank_correlation import rank_correlation
from layerwise.stats.inference import rank_correlations
from layerwise.stats.items.clusters import Clusters, Counts, paired_p_values, sample_and_resamples
from layerwise.stats.resampling import resample_counts
from layerwise.stats.share_tests.equivalence import no_loss_p_values

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
    bound_p_values,
    no_test,
)
from ..verdicts.evidence import Evidence

_PERCENT = 100
WEAK = 0.5  # a rank correlation below which one cost says little of another, fixed beforehand
N_RESAMPLES = 5000
SMALLEST_GAIN = 0.05  # a gain of accuracy that matters, fixed beforehand
NAIM = Source("Naim et al. 2026", "TALE", "arXiv:2510.22767")
NEERAJ = Source("Neeraj 2026", "", "blog, 25 January 2026")
NEERAJ_TEXT = Source("Neeraj 2026", "", "blog, 24 January 2026")


def _draws(clusters: Clusters, random: np.random.Generator) -> Counts:
    """Number of draws of each cluster, in the sample (row 0) and in resamples."""
    return resample_counts(sample_and_resamples(clusters.n, N_RESAMPLES, random))


def _reliability(draws: Float[np.ndarray, "draws layers"]) -> float:
    """Share of the variance of a ranking of layers that is no noise; at most 0 of noise alone."""
    # With true variance T and noise E, resamples correlate with the sample by the square root of
    # c = (T + E) / (T + 2 E), and T / (T + E) is 2 - 1 / c.
    alike = rank_correlations(draws[:1].repeat(len(draws) - 1, axis=0), draws[1:])
    c = float(np.nanmean(alike)) ** 2
    return 2 - 1 / c if c > 0 else 0.0


def text_says_nothing_of_reasoning(evidence: Evidence) -> list[Outcome]:
    """neeraj-1."""
    if "text_loss" not in evidence.tables:
        return [NoTest("", Verdict.NOT_ASKED, "No running text was read.")]
    (written,) = evidence.cells_under("generate")
    if not written:
        return [no_test(evidence, "", "writing", "generate")]
    text, pool = text_effects(evidence.tables["text_loss"], SKIP), evidence.pool(written)
    random = generator(0, "neeraj-1")
    bits = text.clusters.means_of_counts(text.bits, _draws(text.clusters, random))
    # Losses rank layers as shares of the score do.
    lost = pool.clusters.means_of_counts(pool.loss, _draws(pool.clusters, random))
    n = min(text.clusters.n, pool.clusters.n)
    # Bits never tie, so that they need no smoothing; answers do.
    rho = rank_correlation(bits, lost, n, random, sampled=(False, True))
    if not np.isfinite([rho.estimate, rho.low, rho.high]).all():
        why = "All layers cost the same, so that there is nothing to rank."
        return [NoTest("", Verdict.NO_SIGNAL, why)]
    number = Number("bits of text with the score of writing", *rho[:3], n)
    # Noise takes from a correlation, so that a weak one may be a strong one that is badly seen.
    kept = max(_reliability(bits), 0.0) * max(_reliability(lost), 0.0)
    numbers, within = (number,), 1.0
    if kept > 0:
        estimate, low, high = (end / kept**0.5 for end in rho[:3])
        true = Number("the same without noise", estimate, low, high, n)
        within = max(bound_p_values(true, WEAK)[0], bound_p_values(true, -WEAK)[1])
        ends = [min(max(end, -1.0), 1.0) for end in (estimate, low, high)]
        numbers = (number, Number(true.label, ends[0], ends[1], ends[2], n))
    # Where no layer costs answers, their order is luck, and of course related to nothing.
    some = min(1.0, len(pool.layers) * float(pool.p_more(pool.net).min()))
    above = rho.p / 2 if rho.estimate > 0 else 1.0
    return [
        ClaimTest("", "rank correlation", "what layers cost text with what they cost writing",
                  number, max(within, some), above, numbers=numbers)
    ]  # fmt: skip


def _split_items(cell: Cell) -> tuple[Bool[np.ndarray, " items"], Bool[np.ndarray, " items"]]:
    """Items to choose a layer on, and the others; clusters stay together."""
    chosen_on = cell.clusters.codes % 2 == 0
    return chosen_on, ~chosen_on


def _held_out_gain(cell: Cell) -> tuple[int, Contrast, float]:
    """The layer whose removal gains most on half of the items, its gain on the others, and p."""
    chosen_on, held_out = _split_items(cell)
    best = int(np.argmin(cell.net[chosen_on].sum(axis=0)))
    layer = int(cell.interventions["layer"].iloc[best])
    clusters = cell.clusters.select_items(held_out)
    net = cell.net[held_out][:, [best]]
    p = float(paired_p_values(net, clusters)[0]) / 2 if net.sum() < 0 else 1.0
    return layer, mean_contrast(-cell.change[held_out, best], clusters), p


def better_without_a_layer(evidence: Evidence, protocol: str) -> list[Outcome]:
    """The gain of the layer chosen on half of the items, on the other half."""
    (chosen,) = evidence.cells_under(protocol)
    if not chosen:
        return [
            no_test(evidence, "", "writing" if protocol == "generate" else "choosing", protocol)
        ]
    each = {cell.task: _held_out_gain(cell) for cell in chosen}
    best = min(each, key=lambda task: (each[task][2], -each[task][1].estimate))
    layer, gain, p = each[best]
    none = [no_loss_p_values(-cell.change, SMALLEST_GAIN, cell.clusters).max() for cell in chosen]
    numbers = tuple(
        Number.from_contrast(f"{task}, without layer {at}", found, _PERCENT)
        for task, (at, found, _) in each.items()
    )
    return [
        ClaimTest(
            "", "accuracy points", f"gained in {best} without layer {layer}, on held-out items",
            Number.from_contrast(f"{best}, without layer {layer}", gain, _PERCENT),
            min(1.0, len(each) * p), float(max(none)), _PERCENT * gain.error, numbers,
        )
    ]  # fmt: skip


_HOLDS = "the layer that gains most on half of the items gains accuracy on the other half"
_OPPOSITE = "a gain of 5 points is excluded for every single layer and task"

CLAIMS = (
    PublishedClaim(
        "neeraj-1", NEERAJ_TEXT, "table of layers",
        "What a layer costs the perplexity of text says nothing about what it costs reasoning.",
        "Mistral-7B and Llama-3.1-8B: WikiText-2 and 100 items of GSM8K; rank correlations of "
        "0.07 and -0.08.",
        "the rank correlation over layers, of bits lost on text and of the score lost when "
        "writing, is shown to lie between -0.5 and 0.5, also when corrected for noise, and some "
        "layer costs writing something",
        "it is shown to be above 0",
        "Text and word problems are other ones. A correlation of 0.3 supports both sides.",
        Needs({SMALL: ("word-problems", "arithmetic"), FULL: benchmarks("gsm8k")},
              ("generate",), also=("text",)),
        text_says_nothing_of_reasoning,
    ),
    PublishedClaim(
        "naim-1", NAIM, "abstract",
        "Removing a layer chosen for the task matches or improves its accuracy.",
        "Five models, nine tasks; layers are removed greedily while validation accuracy is kept.",
        _HOLDS, _OPPOSITE,
        "A single layer is removed here, and chosen on other items than it is tested on.",
        Needs({SMALL: ("facts", "kv-words", "arithmetic"), FULL: benchmarks(
            "mmlu", "openbookqa")},
            ("continuation",)),
        lambda evidence: better_without_a_layer(evidence, "continuation"),
    ),
    PublishedClaim(
        "neeraj-2", NEERAJ, "table of layers",
        "Without one deep layer the model solves more word problems.",
        "Llama-3.1-8B, 100 items of GSM8K: 48 to 59 right without layer 28, the best of 32.",
        _HOLDS, _OPPOSITE,
        "The layer is chosen on other items than it is tested on; theirs is the best of 32.",
        Needs({SMALL: ("word-problems", "arithmetic"), FULL: benchmarks("gsm8k")}, ("generate",)),
        lambda evidence: better_without_a_layer(evidence, "generate"),
    ),
)  # fmt: skip
