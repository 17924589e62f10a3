"""The intact model layer by layer, whichever kind it is: what every site holds, and whose it is.

A decoder-only model has one stack; an encoder-decoder takes the prompt in its encoder and what is
said in its decoder, so that tokens and positions change between the stacks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Int

from layerwise.models.instance.kinds import DecoderOnly, Model, by_kind, is_seq2seq, vocabularies
from layerwise.models.seq2seq import Seq2SeqModel
from layerwise.sweep.changes.interventions import intact
from layerwise.sweep.checks.faithful import check_faithful
from layerwise.sweep.packed.blocks import block_runners
from layerwise.sweep.plans.walk_plan import plan_walk
from layerwise.sweep.requests import LogLikelihood, Tokens, refuse_unknown_tokens
from layerwise.sweep.run import plan_for
from layerwise.sweep.seq2seq.plan import plan_seq2seq_walk
from layerwise.sweep.seq2seq.walk import Seq2SeqWalk
from layerwise.sweep.walk.engine import Walk, Work


@dataclass(frozen=True)
class IntactLayer:
    """Activations of the intact model at one layer of one walk."""

    layer: int  # its number in the order of computation
    first: bool  # whether it is the first of its stack
    # Activations by site, ``[1, token, ...]``; ``resid_mid`` only of an encoder-decoder.
    seen: dict[str, torch.Tensor]
    positions: Int[torch.Tensor, " token"]  # position of each token in its sequence
    # Which texts the walk is over; those with one prompt go through together.
    texts: tuple[int, ...]
    paths: Sequence[tuple[int, ...]]  # for each of these texts its tokens in this stack
    # The tokens that count in means, as indices: in a decoder-only model all but first positions,
    # which are attention sinks; in both stacks of an encoder-decoder all.
    counted: Int[torch.Tensor, " counted"]


def intact_layers(
    model: Model,
    texts: Sequence[Tokens],
    memory_budget: int,
    n_prompt: Sequence[int] | None = None,
) -> Iterator[IntactLayer]:
    """Yield the intact model's activations layer by layer, one walk after the other."""
    # Whatever is read of intact activations is read here, layer by layer, and keeps what it needs.
    check_faithful(model)
    if is_seq2seq(model):
        lengths = [len(text) for text in texts] if n_prompt is None else n_prompt
        pairs = [(text[:n], text[n:]) for text, n in zip(texts, lengths, strict=True)]
    else:
        pairs = [(text, ()) for text in texts]
    # The last token of a continuation is only read out; any will do.
    requests = [LogLikelihood(prompt, (*decoded, 0)) for prompt, decoded in pairs]
    refuse_unknown_tokens(requests, *vocabularies(model))
    for batch in plan_for(model, [intact()], requests, memory_budget).batches:
        batch_requests = [requests[index] for index in batch.requests]
        yield from by_kind(
            model,
            partial(_decoder_only_layers, texts=batch.requests, requests=batch_requests),
            partial(_seq2seq_layers, texts=batch.requests, requests=batch_requests),
        )


def _decoder_only_layers(
    model: DecoderOnly, texts: tuple[int, ...], requests: Sequence[LogLikelihood]
) -> Iterator[IntactLayer]:
    plan = plan_walk([intact()], requests, model.cfg.n_layers)
    walk = Walk(model, block_runners(model), plan, requests, Work())
    at, paths = walk.plan.trie.positions, walk.plan.paths
    # Made on the host, once: a mask would have it ask the device which these are, by the layer.
    later = [token for token, position in enumerate(at) if position > 0]
    positions = torch.tensor(at, device=walk.device)
    counted = torch.tensor(later, dtype=torch.long, device=walk.device)
    for layer, runner in enumerate(walk.runners):
        seen = {"resid_pre": walk.trunk}
        walk.trunk, _ = runner.packed(walk.trunk, walk.trunk_layout, observe=seen.__setitem__)
        seen["resid_post"] = walk.trunk
        yield IntactLayer(layer, layer == 0, seen, positions, texts, paths, counted)


def _seq2seq_layers(
    model: Seq2SeqModel, texts: tuple[int, ...], requests: Sequence[LogLikelihood]
) -> Iterator[IntactLayer]:
    plan = plan_seq2seq_walk([intact()], requests, model.prefix, model.cfg.n_layers)
    walk, n_encoder = Seq2SeqWalk(model, plan, requests, Work()), model.cfg.n_encoder_layers
    sides = ((plan.encoder, plan.inputs), (plan.decoder, plan.paths))
    stacks = [(torch.tensor(side.positions, device=walk.device), paths) for side, paths in sides]
    for layer, seen in walk.layers(observe=True):
        decoding = layer >= n_encoder
        positions, paths = stacks[decoding]
        first = layer == n_encoder * decoding
        everywhere = torch.arange(len(positions), device=walk.device)
        yield IntactLayer(layer, first, seen, positions, texts, paths, everywhere)
