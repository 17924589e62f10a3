"""The residual stream of intact runs, each text in one pass, and of encoders that end early.

Of an encoder that a decoder looks at, all positions are kept; else one vector a prompt and depth,
and how layers turn the stream, and what other positions hold is summed up and let go.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate
from typing import NamedTuple

import torch
from jaxtyping import Float

from layerwise.ground.layer_names import spans
from layerwise.models.instance.kinds import Model, n_encoder_layers
from layerwise.models.seq2seq import Seq2SeqModel
from layerwise.sweep.changes.interventions import intact, skip_layers
from layerwise.sweep.checks.faithful import check_faithful
from layerwise.sweep.plans.plan import DEFAULT_MEMORY_BUDGET
from layerwise.sweep.requests import LogLikelihood, Tokens
from layerwise.sweep.walk.engine import SweepWork, Walk
from layerwise.sweep.walk.engine_run import make_walk, plan_for_model

from .intact_layers import IntactLayer, Paths, intact_layers
from .intact_run import Place, Residuals


class BothStreams(NamedTuple):
    """Residual streams of texts in both stacks; depth k of a stack is the input of its layer k."""

    # By text, at all positions of its input, ``[depth, pos, d_model]``; the last depth is what
    # leaves the last layer, before the final norm.
    encoder: tuple[torch.Tensor, ...]
    decoder: Float[torch.Tensor, "depth read d_model"]  # a row for each text and position


@torch.inference_mode()
def both_streams(
    model: Seq2SeqModel,
    texts: Sequence[Tokens],
    positions: Sequence[Sequence[int]],
    n_prompt: Sequence[int],
    *,
    memory_budget: int = DEFAULT_MEMORY_BUDGET,
) -> BothStreams:
    """Residual streams of both stacks of the intact model; each distinct input is encoded once."""
    n_encoder, n_layers, d_model = model.cfg.n_encoder_layers, model.cfg.n_layers, model.cfg.d_model
    places = [("resid_post", layer) for layer in range(n_encoder - 1, n_layers)]
    decoder = Residuals(model, positions, places, n_prompt)
    encoder = tuple(model.W_E.new_empty(n_encoder + 1, n, d_model) for n in n_prompt)
    for intact_layer in intact_layers(model, texts, memory_budget, n_prompt):
        decoder.take(intact_layer)
        if intact_layer.layer < n_encoder:
            for text, path in zip(intact_layer.texts, intact_layer.paths, strict=True):
                at = list(path)
                encoder[text][intact_layer.layer] = intact_layer.seen["resid_pre"][0, at]
                encoder[text][intact_layer.layer + 1] = intact_layer.seen["resid_post"][0, at]
    return BothStreams(encoder, decoder.out)


class Streams(NamedTuple):
    """Residual streams and layer influence of prompts in one stack, on the CPU in float64."""

    # The stream at each prompt's last position; in an encoder its mean over positions; in the
    # decoder behind it that at the position that says the first token of the answer. Depth k is
    # what enters layer k of the stack, the last what leaves the last layer.
    read: Float[torch.Tensor, "depth prompt d_model"]
    # 1 minus the cosine of what enters and what leaves a layer, mean over all positions of the
    # prompt; in the decoder behind an encoder over the tokens that it begins with.
    influence: Float[torch.Tensor, "layer prompt"]


@torch.inference_mode()
def read_streams(
    model: Model,
    contexts: Sequence[Tokens],
    *,
    memory_budget: int = DEFAULT_MEMORY_BUDGET,
) -> tuple[Streams, ...]:
    """Read the intact residual stream of prompts; what they share is run once."""
    n_encoder, n, d_model = n_encoder_layers(model), len(contexts), model.cfg.d_model
    sizes = [last + 1 - first for first, last in spans(n_encoder, model.cfg.n_layers)]
    stacks = tuple(
        Streams(
            torch.empty(size + 1, n, d_model, dtype=torch.float64),
            torch.empty(size, n, dtype=torch.float64),
        )
        for size in sizes
    )
    for intact_layer in intact_layers(model, contexts, memory_budget):
        encodes = intact_layer.layer < n_encoder
        behind = bool(n_encoder) and not encodes
        _fill(stacks[behind], intact_layer.layer - n_encoder * behind, intact_layer, at_all=encodes)
    return stacks


def _fill(streams: Streams, layer: int, walked: IntactLayer, *, at_all: bool) -> None:
    """Store the stream and influence of one layer (numbered in its stack) of a walk."""
    here = list(walked.texts)
    before, after = walked.seen["resid_pre"][0], walked.seen["resid_post"][0]
    turned = 1 - torch.nn.functional.cosine_similarity(before.float(), after.float(), dim=-1)
    streams.influence[layer, here] = _means(turned.cpu().double(), walked.paths)
    for depth, resid in [(0, before)] * walked.first + [(layer + 1, after)]:
        streams.read[depth, here] = (
            _means(resid.cpu().double(), walked.paths)
            if at_all
            else resid[[path[-1] for path in walked.paths]].cpu().double()
        )


def _means(
    values: Float[torch.Tensor, "token ..."], paths: Paths
) -> Float[torch.Tensor, "prompt ..."]:
    return torch.stack([values[list(path)].mean(dim=0) for path in paths])


Translate = Callable[[Place, torch.Tensor], torch.Tensor]


@torch.inference_mode()
def truncated_encoder(
    model: Seq2SeqModel,
    texts: Sequence[Tokens],
    positions: Sequence[Sequence[int]],
    n_prompt: Sequence[int],
    *,
    memory_budget: int = DEFAULT_MEMORY_BUDGET,
    translate: Translate | None = None,
) -> Float[torch.Tensor, "depth read d_model"]:
    """The decoder's last residual stream where the encoder ends behind each of its layers."""
    # The exact run of a shorter model, which is the DecoderLens of Langedijk et al. 2023
    # (arXiv:2310.03686), by the engine's branches; or, where a trained translator is put behind the
    # last layer that is left, a probe.
    check_faithful(model)
    n_encoder = model.cfg.n_encoder_layers
    changes = [skip_layers(range(n, n_encoder)) for n in range(n_encoder)] + [intact()]
    # The last token of a continuation is only read out; any will do.
    requests = [
        LogLikelihood(text[:n], (*text[n:], 0)) for text, n in zip(texts, n_prompt, strict=True)
    ]
    starts = list(accumulate(map(len, positions), initial=0))
    out = model.W_E.new_empty(len(changes), starts[-1], model.cfg.d_model)
    begin = len(model.prefix)
    for batch in plan_for_model(model, changes, requests, memory_budget).batches:
        batch_requests = [requests[index] for index in batch.requests]
        some = [changes[index] for index in batch.interventions]
        walk = make_walk(model, some, batch_requests, SweepWork())
        walk.run(partial(_translate, walk, translate) if translate is not None else None)
        plan = walk.plan
        columns, rows = [], []
        for path, index in zip(walk.side.paths, batch.requests, strict=True):
            columns += range(starts[index], starts[index + 1])
            decoder_positions = [pos - n_prompt[index] + begin for pos in positions[index]]
            rows += [bisect_left(plan.read, path[pos]) for pos in decoder_positions]
        ends = [(walk.trunk[0], plan.intact)]
        for group in walk.groups:
            ends += [(group.read[i], branch.members) for i, branch in enumerate(group.branches)]
        for resid, members in ends:
            for member in members:
                out[batch.interventions[member], columns] = resid[rows]
    return out


def _translate(walk: Walk, translate: Translate, layer: int) -> None:
    """Put translated streams behind the encoder's last layer, before its final norm."""
    # A branch opens where its encoder ends, and holds since then what entered that layer.
    if layer == walk.plan.n_encoder - 1:
        for group in walk.groups:
            for row, branch in enumerate(group.branches):
                place = "resid_post", branch.first_layer - 1
                group.resid[row] = translate(place, group.resid[row])
