"""The intact model layer by layer, whichever kind it is: what every site holds, and whose it is.

A decoder-only model has one stack; an encoder-decoder takes the prompt in its encoder and what is
said in its decoder, so that tokens and positions change between the stacks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int

from layerwise.models.instance.kinds import Model, is_seq2seq, n_encoder_layers, vocabularies
from layerwise.sweep.changes.interventions import intact
from layerwise.sweep.checks.faithful import check_faithful
from layerwise.sweep.requests import LogLikelihood, Tokens, refuse_unknown_tokens
from layerwise.sweep.walk.engine import SweepWork, Walk
from layerwise.sweep.walk.engine_run import make_walk, plan_for_model

Paths = Sequence[tuple[int, ...]]


@dataclass(frozen=True)
class IntactLayer:
    """Activations of the intact model at one layer of one walk."""

    layer: int  # its number in the order of computation
    first: bool  # whether it is the first of its stack
    # Activations by site, ``[1, token, ...]``; ``resid_mid`` only of an encoder-decoder.
    seen: dict[str, torch.Tensor]
    # Which texts the walk is over; those with one prompt go through together.
    texts: tuple[int, ...]
    positions: Int[torch.Tensor, " token"]  # position of each token in its sequence
    paths: Paths  # for each of these texts its tokens in this stack
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
    n_encoder = n_encoder_layers(model)
    for batch in plan_for_model(model, [intact()], requests, memory_budget).batches:
        walk = make_walk(
            model, [intact()], [requests[index] for index in batch.requests], SweepWork()
        )
        stacks = list(_stacks(walk))
        for layer, seen in walk.layers(observe=True):
            behind = walk.plan.stack_index(layer)
            first = layer == n_encoder * behind
            yield IntactLayer(layer, first, seen, batch.requests, *stacks[behind])


def _stacks(walk: Walk) -> Iterator[tuple[torch.Tensor, Paths, torch.Tensor]]:
    """Of each stack the positions of its tokens, the texts' tokens, and those that count."""
    # Made on the host, once: a mask would have it ask the device which these are, by the layer.
    sides = walk.plan.sides
    for side in sides:
        at = side.trie.positions
        counted = [i for i, position in enumerate(at) if position > 0 or len(sides) > 1]
        positions = torch.tensor(at, device=walk.device)
        yield positions, side.paths, torch.tensor(counted, dtype=torch.long, device=walk.device)
