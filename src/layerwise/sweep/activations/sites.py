"""Outputs of an intact model's parts, and a decoder's attention to its encoder, of one walk.

A decoder is read at each prompt's last position, or where it begins to answer, an encoder at all of
the prompt. Nothing is changed here, and what is written is not read further.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

import torch
from jaxtyping import Float

from layerwise.models.instance.kinds import DecoderOnly
from layerwise.models.seq2seq import Seq2SeqModel
from layerwise.models.weights.offload import blocks_on_disk
from layerwise.sweep.plans.plan import DEFAULT_MEMORY_BUDGET
from layerwise.sweep.requests import Tokens

from .intact_layers import IntactLayer, intact_layers


@dataclass(frozen=True)
class StackSites:
    """All terms of the final residual stream of one stack, at some tokens."""

    embedding: Float[torch.Tensor, "row d_model"]  # what enters the first block
    # Each head's output before the output projection.
    z: Float[torch.Tensor, "layer row head d_head"]
    attn_out: Float[torch.Tensor, "layer row d_model"]  # what attention adds to the residual stream
    # What the MLP adds; zeros in a model without MLPs.
    mlp_out: Float[torch.Tensor, "layer row d_model"]
    final: Float[torch.Tensor, "row d_model"]  # the residual stream that leaves the last block

    @classmethod
    def empty(cls, like: torch.Tensor, n_rows: int, n_layers: int, *head: int) -> StackSites:
        """Empty tensors for some tokens."""
        width = like.shape[-1]
        return cls(
            like.new_empty(n_rows, width), like.new_empty(n_layers, n_rows, *head),
            like.new_empty(n_layers, n_rows, width), like.new_zeros(n_layers, n_rows, width),
            like.new_empty(n_rows, width),
        )  # fmt: skip

    def take(self, walked: IntactLayer, layer: int, rows: list[int], tokens: list[int]) -> None:
        """Store the terms of one layer of the stack (from 0) at some tokens of its walk."""
        if walked.first:
            self.embedding[rows] = walked.seen["resid_pre"][0, tokens]
        for site in ("z", "attn_out", "mlp_out"):
            if site in walked.seen:
                getattr(self, site)[layer, rows] = walked.seen[site][0, tokens]
        if layer == len(self.z) - 1:
            self.final[rows] = walked.seen["resid_post"][0, tokens]


@torch.inference_mode()
def last_sites(
    model: DecoderOnly,
    contexts: Sequence[Tokens],
    *,
    memory_budget: int = DEFAULT_MEMORY_BUDGET,
) -> StackSites:
    """Read what every part of the intact model writes at each context's last position."""
    cfg = model.cfg
    sites = StackSites.empty(model.W_E, len(contexts), cfg.n_layers, cfg.n_heads, cfg.d_head)
    for intact_layer in intact_layers(model, contexts, memory_budget):
        last = [path[-1] for path in intact_layer.paths]
        sites.take(intact_layer, intact_layer.layer, list(intact_layer.texts), last)
    return sites


@contextmanager
def loaded_block(model: DecoderOnly, layer: int) -> Iterator[Any]:
    """A block of the model, with its weights in memory meanwhile if they are on disk."""
    on_disk = blocks_on_disk(model)
    if on_disk is not None:
        on_disk.hold(layer)
    try:
        yield model.blocks[layer]
    finally:
        if on_disk is not None:
            on_disk.drop(layer)


@dataclass(frozen=True)
class CrossSites:
    """Activations that cross-attention wrote at some tokens of the decoder."""

    # Each head's output before the output projection.
    z: Float[torch.Tensor, "layer row head d_head"]
    # What cross-attention adds to the residual stream.
    out: Float[torch.Tensor, "layer row d_model"]


@dataclass(frozen=True)
class Seq2SeqSites:
    """All that is added up in both stacks, and how the encoder's sum comes to the decoder's."""

    # Of the encoder, at every token of every context, one context after the other.
    encoder: StackSites
    decoder: StackSites  # of the decoder, at its last token before the answer, one row per context
    cross: CrossSites  # of cross-attention, there
    # How much each cross-attention head looks from there at each token of the row's context, after
    # the softmax; tokens as in ``encoder``.
    pattern: Float[torch.Tensor, "layer head token"]
    lengths: tuple[int, ...]  # tokens of each context

    @property
    def final(self) -> Float[torch.Tensor, "context d_model"]:
        """The residual stream that leaves the decoder's last block."""
        return self.decoder.final

    @cached_property
    def spans(self) -> list[slice]:
        """Places in ``encoder`` of the tokens of each context."""
        ends = list(accumulate(self.lengths))
        return [slice(end - n, end) for end, n in zip(ends, self.lengths, strict=True)]


@torch.inference_mode()
def seq2seq_sites(
    model: Seq2SeqModel,
    contexts: Sequence[Tokens],
    *,
    memory_budget: int = DEFAULT_MEMORY_BUDGET,
) -> Seq2SeqSites:
    """Read what every part of the intact model writes where the answer is predicted."""
    cfg, like, lengths = model.cfg, model.W_E, tuple(map(len, contexts))
    n_encoder, n_decoder, count = cfg.n_encoder_layers, cfg.n_decoder_layers, len(contexts)
    of_encoder = cfg.encoder_heads, cfg.encoder_d_head
    of_decoder = cfg.decoder_heads, cfg.decoder_d_head
    sites = Seq2SeqSites(
        StackSites.empty(like, sum(lengths), n_encoder, *of_encoder),
        StackSites.empty(like, count, n_decoder, *of_decoder),
        CrossSites(
            like.new_empty(n_decoder, count, *of_decoder),
            like.new_empty(n_decoder, count, cfg.d_model),
        ),
        like.new_empty(n_decoder, cfg.decoder_heads, sum(lengths)),
        lengths,
    )
    for intact_layer in intact_layers(model, contexts, memory_budget):
        if intact_layer.layer < n_encoder:
            spans = [sites.spans[text] for text in intact_layer.texts]
            rows = [row for span in spans for row in range(span.start, span.stop)]
            tokens = [token for path in intact_layer.paths for token in path]
            sites.encoder.take(intact_layer, intact_layer.layer, rows, tokens)
        else:
            _take_decoder(model, sites, intact_layer)
    return sites


def _take_decoder(model: Seq2SeqModel, sites: Seq2SeqSites, walked: IntactLayer) -> None:
    """Keep a decoder layer's sites, and where its cross-attention looks."""
    layer = walked.layer - model.cfg.n_encoder_layers
    rows, last = list(walked.texts), [path[-1] for path in walked.paths]
    sites.decoder.take(walked, layer, rows, last)
    sites.cross.z[layer, rows] = walked.seen["cross_z"][0, last]
    sites.cross.out[layer, rows] = walked.seen["cross_attn_out"][0, last]
    stack = model.parts.decoder
    parts = stack.blocks[layer]
    assert parts.cross_attn is not None
    assert parts.cross_norm is not None
    resid = walked.seen["resid_mid"][0, last]
    read = resid if stack.post_norm else parts.cross_norm(resid)
    heads = (parts.cross_attn.n_heads, -1)
    queries = parts.cross_attn.q(read).unflatten(-1, heads)
    for text, query in zip(walked.texts, queries, strict=True):
        span = sites.spans[text]
        memory = model.parts.encoder.final_norm(sites.encoder.final[span])
        keys = parts.cross_attn.k(memory).unflatten(-1, heads)
        scores = torch.einsum("hd,thd->ht", query, keys) * parts.cross_attn.scale
        sites.pattern[layer, :, span] = scores.softmax(-1)
