"""Readings of lenses in wired encoder-decoders, and depths by all methods, beside the truth."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from wired_methods import Row, halves

import layerwise as lw
from analyses.validity.wired_truth_seq2seq import PlantedSeq2Seq
from layerwise.analyses.emergence.api import HALF as HALF_EFFECT
from layerwise.analyses.tuned_lens.api import KINDS, train_lens
from layerwise.models.organisms.wired_seq2seq.layout import WiredSeq2SeqLayout
from layerwise.models.seq2seq import Seq2SeqModel

PAIRS, READ = 6, "continuation"  # six pairs that are solved are the least that has signal
CHANCE, STEPS = 0.25, 40  # of four choices; steps of training
Options = dict[str, Any]


def lenses(model: Seq2SeqModel, layout: WiredSeq2SeqLayout, options: Options) -> Iterator[Row]:
    """The lens of the decoder, and what is said where the encoder ends early; depths by both."""
    read = lw.logit_lens(model, "all", READ, **options)
    ends = {"logit": layout.n_layers, "decoder": layout.n_encoder_layers}
    for (lens, capability), group in read.lens.groupby(["lens", "capability"]):
        top = group.assign(top=group["rank"] == 0).groupby("layer")["top"].all()
        planted = list(range(_readable(layout, capability, lens), ends[str(lens)]))
        on_top = [int(layer) for layer in top.index[top]]
        yield f"{lens} lens: answer on top", str(capability), planted, on_top
    for (lens, capability), group in read.prediction_depths().groupby(["lens", "capability"]):
        depths = sorted(set(group.loc[group["right"], "layer"].astype(int)))
        planted = [_readable(layout, capability, lens)]
        yield f"prediction depth, {lens} lens", str(capability), planted, depths
    patched = lw.patch_activations(model, "all", positions="answer", pairs=PAIRS, **options)
    yield from depth_rows([lw.ablate(model, "all", READ, **options), read, patched], layout)


def tuned_lens_rows(
    model: Seq2SeqModel, layout: WiredSeq2SeqLayout, options: Options
) -> Iterator[Row]:
    """Places where a trained lens reads what was not brought there, or misses what can be read.

    Between the two, what it must read does not follow from the layout. Training takes its time,
    so this is of the default layout alone.
    """
    if layout != WiredSeq2SeqLayout():
        return
    for kind in KINDS:
        lens = train_lens(model, "all", kind=kind, steps=STEPS, progress=False).lens
        read = lw.logit_lens(model, "all", READ, lens="tuned", tuned=lens, **options).lens
        on_top = read.assign(top=read["rank"] == 0)
        for (name, capability), group in on_top.groupby(["lens", "capability"]):
            truth = PlantedSeq2Seq(layout, str(capability))
            in_encoder = name == "tuned decoder"
            brought = truth.finding_layer if in_encoder else layout.copy.layer
            readable = truth.finding_layer if in_encoder else truth.readable_layer
            wrong = [
                int(layer)
                for layer, share in group.groupby("layer")["top"].mean().items()
                if (layer < brought and share > CHANCE) or (layer >= readable and share < 1)
            ]
            yield f"tuned lens, {kind}, {name}: read wrongly", truth.capability, [], wrong


def depth_rows(results: list[Any], layout: WiredSeq2SeqLayout) -> Iterator[Row]:
    """Half-effect depths on the axis of computation, in halves of a layer."""
    depths = lw.emergence(results, n_resamples=200).emergence
    whole = depths["axis"] == "computation"
    for row in depths.loc[whole & (depths["measure"] == HALF_EFFECT)].itertuples():
        truth = PlantedSeq2Seq(layout, str(row.capability))
        planted = {
            "ablation": truth.half_effect_depth, "logit lens": truth.readable_layer,
            "decoder lens": truth.finding_layer, "activation patching": layout.copy.layer,
            "direct attribution": layout.say,
        }[str(row.method)]  # fmt: skip
        method = f"half-effect depth by {row.method}"
        yield method, truth.capability, [round(2 * planted)], halves(row.layer)


def _readable(layout: WiredSeq2SeqLayout, capability: object, lens: object) -> int:
    truth = PlantedSeq2Seq(layout, str(capability))
    return truth.finding_layer if lens == "decoder" else truth.readable_layer
