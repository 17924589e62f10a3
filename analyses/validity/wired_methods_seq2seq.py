"""Findings of the methods beside ablation in wired encoder-decoders, beside what was planted.

Add a method by adding a function to ``PARTS``.
"""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
from lens_readings_seq2seq import PAIRS, READ, Options, depth_rows, lenses, tuned_lens_rows
from wired_methods import HALF, MUCH, TASKS, Row, spared_first

import layerwise as lw
from analyses.validity.wired_truth_seq2seq import PlantedSeq2Seq, spared
from layerwise.models.organisms.wired_seq2seq.layout import NEEDED, WiredSeq2SeqLayout
from layerwise.models.seq2seq import Seq2SeqModel
from layerwise.tasks import load_task

FEW = 1  # pairs; methods that estimate or walk paths need no test over pairs here
HEADS, MEMORY = ("z", "cross_z"), ("cross_k", "cross_v", "cross_pattern")
# Labels of positions, by what stands there.
WHERE = {"last changed": "asked", "last": "end", "answer": "begin"}
RECEIVED = {"l": "the logits", "m": "MLPs", "q": "queries", "v": "values", "c": "cross-attention"}
PARTS_OF = ("z", "cross_z", "mlp_out", "attn_out", "cross_attn_out")
SEEN = 1e-3  # nats; less is rounding of a float32 that is as large as a difference of logits


def method_rows(model: Seq2SeqModel, layout: WiredSeq2SeqLayout, options: Options) -> Iterator[Row]:
    """Findings of each method beside what was planted."""
    for part in PARTS:
        yield from part(model, layout, options)


def _patching_rows(
    model: Seq2SeqModel, layout: WiredSeq2SeqLayout, options: Options
) -> Iterator[Row]:
    """Streams and heads where the answer passes; keys, values and patterns at all positions."""
    options = {**options, "pairs": PAIRS}
    stream = lw.patch_activations(model, "all", positions=list(WHERE), **options).patching
    for (label, capability), group in stream.groupby(["pos_label", "capability"]):
        truth = PlantedSeq2Seq(layout, str(capability))
        layers = sorted(set(group["layer"].astype(int)))
        planted = [k for k in layers if truth.recovers("resid_pre", k, WHERE[str(label)])]
        yield f"patch resid_pre at {label}", truth.capability, planted, _carrying_layers(group)
    n_heads = model.cfg.n_heads
    for sites, labels in ((HEADS, ["last", "answer"]), (MEMORY, ["all"])):
        table = lw.patch_activations(model, "all", sites=sites, positions=labels, **options)
        for (site, capability), group in table.patching.groupby(["site", "capability"]):
            truth = PlantedSeq2Seq(layout, str(capability))
            planted, per_layer = _passing_parts(truth, str(site), n_heads)
            yield f"patch {site}", truth.capability, planted, _carrying_layers(group, per_layer)


def _passing_parts(truth: PlantedSeq2Seq, site: str, n_heads: int) -> tuple[list[int], int]:
    """The heads or layers that pass the answer on, and how many numbers a layer has."""
    if site in HEADS:
        spots = truth.critical_heads(site, "resample")
        return sorted(spot.layer * n_heads + spot.head for spot in spots), n_heads
    if site == "cross_pattern":  # prompts of one length end in the same place
        return [], n_heads
    layers = range(truth.layout.n_encoder_layers, truth.layout.n_layers)
    return [k for k in layers if truth.recovers_by_memory(site[-1], k)], 1  # type: ignore[arg-type]


def _carrying_layers(group: pd.DataFrame, per_layer: int = 1) -> list[int]:
    """The layers, or heads by number, whose patch brings the answer back in every pair."""
    heads = group["head"] if per_layer > 1 else 0
    least = group.groupby(group["layer"] * per_layer + heads)["recovered"].min()
    return [int(place) for place in least.index[least > HALF]]


def _idle(model: Seq2SeqModel, layout: WiredSeq2SeqLayout, options: Options) -> Iterator[Row]:
    yield from spared_first(model, spared(layout, *NEEDED), options)


def _gradient_rows(
    model: Seq2SeqModel, layout: WiredSeq2SeqLayout, options: Options
) -> Iterator[Row]:
    """The heads that a gradient credits, beside those whose true patch brings the answer back."""
    cells = lw.attribute_patches(
        model, "all", positions=("last", "answer"), pairs=FEW, sample=3, **options
    ).cells()
    n_heads = model.cfg.n_heads
    for (site, capability), group in cells.groupby(["site", "capability"]):
        spots = PlantedSeq2Seq(layout, str(capability)).critical_heads(str(site), "resample")
        seen = group.loc[group["estimate"].abs() > SEEN]
        planted = sorted(spot.layer * n_heads + spot.head for spot in spots)
        credited = sorted((seen["layer"] * n_heads + seen["head"]).astype(int))
        yield f"attribution patching: {site}", str(capability), planted, credited


def _sender_rows(
    model: Seq2SeqModel, layout: WiredSeq2SeqLayout, options: Options
) -> Iterator[Row]:
    """The one sender to each receiver of the chain, from the logits back to the embedding."""
    for capability in NEEDED:
        links = PlantedSeq2Seq(layout, capability).links
        task = load_task(f"wired-{TASKS[capability]}", limit=options["limit"])
        effects = lw.patch_paths(model, task, list(links), pairs=FEW, progress=False).effects()
        for receiver, senders in effects.groupby("receiver", sort=False):
            link = links[str(receiver)]
            heard = senders.loc[senders["recovered"] > HALF, ["site", "layer", "head"]]
            found = sorted(_sender(model, *row) for row in heard.itertuples(index=False))
            planted = [] if link is None else [_sender(model, *link)]
            yield f"direct paths into {RECEIVED[str(receiver)[0]]}", capability, planted, found


def _sender(model: Seq2SeqModel, site: str, layer: int, head: int | None) -> int:
    """One number for a part: of each of ``PARTS_OF`` in turn; embeddings are -1."""
    if site == "embed":
        return -1
    n_heads = model.cfg.n_heads
    before = PARTS_OF.index(site) * model.cfg.n_layers * n_heads
    return before + (int(layer) if pd.isna(head) else int(layer) * n_heads + int(head))


def _attribution_rows(
    model: Seq2SeqModel, layout: WiredSeq2SeqLayout, options: Options
) -> Iterator[Row]:
    """The parts of both stacks that are credited with some of the logit difference."""
    result = lw.attribution(model, "all", READ, **options)
    summary = result.summary()
    sure = (summary["metric"] == "logit_diff") & summary["significant"]
    parts = summary.loc[sure & summary["component"].isin(PARTS_OF)]
    for capability in NEEDED:
        mine = parts.loc[parts["capability"] == capability, ["component", "layer", "head"]]
        found = sorted(_sender(model, *row) for row in mine.itertuples(index=False))
        planted = [_sender(model, *PlantedSeq2Seq(layout, capability).links["logits"])]
        yield "direct attribution: heads, attention or MLP", capability, planted, found
    yield from depth_rows([result], layout)


def _head_score_rows(
    model: Seq2SeqModel, layout: WiredSeq2SeqLayout, options: Options
) -> Iterator[Row]:
    """The heads, of every kind of attention, that look at the token before."""
    scored = lw.head_scores(model, sequences=3, progress=False).summary()
    heads = scored.loc[scored["previous_token"] > MUCH, ["site", "layer", "head"]]
    found = sorted(_sender(model, *row) for row in heads.itertuples(index=False))
    planted = [_sender(model, "z", layout.previous.layer, layout.previous.head)]
    yield "head scores: previous-token heads", "all", planted, found


PARTS = (
    lenses,
    _patching_rows,
    _idle,
    _gradient_rows,
    _sender_rows,
    _head_score_rows,
    _attribution_rows,
    tuned_lens_rows,
)
