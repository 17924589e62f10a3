"""Running text under changes: claims, part of a page, and its declaration ``ANALYSIS``."""

from __future__ import annotations

from functools import partial

import numpy as np

from layerwise.analyses.contract import Analysis
from layerwise.presentation.claim import IN_TABLE, Claim, Estimate, source, weight
from layerwise.presentation.columns import run_table_as_text
from layerwise.presentation.naming import name_layer
from layerwise.presentation.section import FigureSpec, Section
from layerwise.presentation.wording import count_noun, count_range
from layerwise.stats.contrasts import Contrast, mean_contrast
from layerwise.stats.families.multiplicity import correct_family
from layerwise.storage.run_tables import RunTables

from .result import COLUMNS, LEVEL, SKIP, SWAP, TextEffects, TextLossResult, text_effects

KIND = "running text"
_BITS = "bits per byte"
_WORDS = (
    "How much less likely ordinary text becomes without a layer, or with two neighbours exchanged, "
    "and how often the most likely next token stays the same."
)


def costliest_layer(effects: TextEffects) -> tuple[int, Contrast, float] | None:
    """The layer that costs most when skipped, its cost, and p against every other layer."""
    # The largest of many is tested against each other one; the largest p-value counts, times how
    # many could have been the largest.
    means = effects.bits.mean(axis=0)
    if len(means) < 2:
        return None
    best = int(np.argmax(means))
    more = [
        mean_contrast(effects.bits[:, best] - effects.bits[:, other], effects.clusters).p_above()
        for other in range(len(means))
        if other != best
    ]
    lost = mean_contrast(effects.bits[:, best], effects.clusters)
    return int(effects.layers[best]), lost, min(1.0, len(means) * max(*more, lost.p_above()))


def skips_minus_swaps(skips: TextEffects, swaps: TextEffects) -> Contrast:
    """Mean cost of skipping a layer minus that of a swap, by piece."""
    return mean_contrast(skips.bits.mean(axis=1) - swaps.bits.mean(axis=1), skips.clusters)


def findings(run: RunTables) -> list[Claim]:
    """The layer that text needs most, and if swaps cost less than skips.

    Both claims are the family: no table has a row of either.
    """
    table = run.table("text_loss")
    if table is None or table.empty:
        return []
    skips, swaps = (text_effects(table, kind) for kind in (SKIP, SWAP))
    n = count_noun(len(skips.bits) or len(swaps.bits), "piece")
    of_skips = costliest_layer(skips)
    gap = skips_minus_swaps(skips, swaps) if len(skips.layers) and len(swaps.layers) else None
    raw = [1.0 if of_skips is None else of_skips[2], 1.0 if gap is None else gap.p_either_side()]
    p = correct_family(np.array(raw))
    claims = []
    if of_skips is not None and p[0] < LEVEL:
        layer, lost, _ = of_skips
        claims.append(Claim(
            kind=KIND, evidence=IN_TABLE, importance=weight(0.45, lost.estimate),
            short=f"Running text loses most without layer {name_layer(layer)}.",
            details=("The loss is counted in bits for each byte of text.",), layers=(layer,),
            estimate=Estimate(lost.estimate, *lost.bounds(), _BITS, digits=2), p=float(p[0]),
            test="paired t-tests against every other layer, the largest p for all layers, Holm "
            "over 2 claims", items=n,
            source=source("text_effects", dict(kind=SKIP), layer=layer),
        ))  # fmt: skip
    if gap is not None and p[1] < LEVEL:
        less = "more" if gap.estimate > 0 else "less"
        claims.append(Claim(
            kind=KIND, evidence=IN_TABLE, importance=weight(0.4, abs(gap.estimate)),
            short=f"Skipping a layer costs running text {less} than swapping it with the next.",
            details=("Both are means over the layers.",),
            estimate=Estimate(gap.estimate, *gap.bounds(), _BITS, digits=3), p=float(p[1]),
            test="paired t-test over texts, Holm over 2 claims", items=n,
            source=source("text_effects", {}),
        ))  # fmt: skip
    return claims


def sections(run: RunTables) -> list[Section]:
    """Both measures over the layers, and their numbers."""
    from .figures import text_curves

    effects = run.table("text_effects")
    if effects is None or effects.empty:
        return []
    text = run.facts.settings.get("text", "the text")
    caption = (
        f"Running text ({text}, n = {count_range(effects['n_pieces'], 'piece')}) without each "
        "layer, and with each exchanged with the next. Above: bits lost for each byte of text, "
        "mean over pieces; values below 0.001, and gains, stand there. Filled: different from 0 "
        "after Holm's correction over all points. Below: positions at which the intact model's "
        "most likely next token stays the most likely one. Bands: 95 % intervals over texts. A "
        "swap stands between its two layers."
    )
    alt = "Two curves over the layers for each kind of change: bits lost, and next tokens kept."
    figure = FigureSpec("running_text", partial(text_curves, effects), caption, alt)
    tables = run_table_as_text(run, "text_effects", "Running text by change ({n})", COLUMNS)
    return [
        Section("running-text", "Running text", 72, _WORDS, (figure,), tuple(tables), kinds=(KIND,))
    ]


ANALYSIS = Analysis(
    "running_text", TextLossResult, sections, findings,
    done={
        "text_effects": "Running text was read under every change of layers.",
    },
)  # fmt: skip
