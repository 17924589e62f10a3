"""What the parts of an intact encoder-decoder write, and where its decoder looks, of one walk.

The decoder is read where it begins to answer, the encoder at all of the prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import torch
from jaxtyping import Float

from layerwise.models.seq2seq import Seq2SeqModel
from layerwise.sweep.activations.intact_layers import IntactLayer, intact_layers
from layerwise.sweep.activations.last_sites import StackSites
from layerwise.sweep.plans.plan import DEFAULT_MEMORY_BUDGET
from layerwise.sweep.requests import Tokens


@dataclass(frozen=True)
class CrossSites:
    """What cross-attention wrote at some tokens of the decoder."""

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
        """Where in ``encoder`` the tokens of each context are."""
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
            rows = [row for text in intact_layer.texts for row in _rows(sites, text)]
            sites.encoder.take(
                intact_layer,
                intact_layer.layer,
                rows,
                [token for p in intact_layer.paths for token in p],
            )
        else:
            _take_decoder(model, sites, intact_layer)
    return sites


def _rows(sites: Seq2SeqSites, text: int) -> range:
    span = sites.spans[text]
    return range(span.start, span.stop)


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
