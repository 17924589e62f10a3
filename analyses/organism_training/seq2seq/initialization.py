"""An encoder-decoder organism before it is trained: a small T5 that is prepared for look-ups.

The same help as the decoder has (``organism_training.initialization``), by the means that a T5 has.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import T5Config, T5ForConditionalGeneration

from layerwise.models.organisms.language import END, PAD, Language

from ..initialization import FAINT, HEAD_WIDTH, HEADS, WIDTH, LookUps
from .plan import N_DECODER, N_ENCODER, PLANTED

MLP_WIDTH = 192
_FETCHES = PLANTED["retrieval"][-1] - N_ENCODER
_COPIES, *_MATCHES = PLANTED["reasoning"][:-1]
_COUNTS, _ = PLANTED["coherence"]
_FAINTER = 0.1  # what some layers write into the residual stream at first
_SHARP, _SHY = 6.0, 6.0  # pull to a neighbour, push away from where a head stands
_RISE, _TOLD_APART = 2.0, 3.0  # by distance
AHEAD, _EXACT = 16, 8  # buckets of words further on come after this one; so far, one word has one
_QUIET = 0.1  # queries and keys of heads that look at an offset
_LOOKED_AT = {0: 1, 1: 3, 2: AHEAD + 1}
"""By head, the bucket: the word before, the third before, the next word."""
_FAR_FROM = {2: 2.5, 3: 4.5}
"""By head, the distance from which it prefers what is further on, in words."""
_FREE = slice(2, None)
"""Heads that match: at the last word there is no next one, so the third head is free there."""
_FREE_ROWS = slice(2 * HEAD_WIDTH, None)


def new_seq2seq(language: Language, seed: int) -> T5ForConditionalGeneration:
    """An untrained model."""
    # The relative position bias, which all layers of a stack share, makes the first heads of the
    # encoder look at neighbours, and others tell how far ahead a word is; in the decoder it tells
    # how many words ago the start was, in binary, a digit a head. Look-ups are prepared further, in
    # two parts of the encoder's residual stream: one layer copies the previous word into the first;
    # the next looks there for what its own previous word was, other than where it stands, and
    # copies the word that it finds into the second; the third looks for that word in turn.
    # Cross-attention of the layer that is to fetch answers copies the second part, which the
    # unembedding reads.
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = begin_seq2seq(language, N_ENCODER, N_DECODER)
        _look_at_neighbours(model)
        _begin_to_count(model)
        _prepare_look_ups(model)
    return model


def begin_seq2seq(language: Language, n_encoder: int, n_decoder: int) -> T5ForConditionalGeneration:
    """An encoder-decoder with embeddings still to be drawn, the rest drawn as torch is seeded."""
    pad = language.words.index(PAD)
    untyped: dict[str, Any] = {"decoder_start_token_id": pad, "scale_decoder_outputs": False}
    config = T5Config(
        vocab_size=len(language.words),
        d_model=WIDTH,
        d_kv=HEAD_WIDTH,
        d_ff=MLP_WIDTH,
        num_layers=n_encoder,
        num_decoder_layers=n_decoder,
        num_heads=HEADS,
        dropout_rate=0.0,
        pad_token_id=pad,
        eos_token_id=language.words.index(END),
        **untyped,
    )
    model = T5ForConditionalGeneration(config)
    # transformers 5 ties the two at first, whatever it is told; other readers are told here.
    model.config.tie_word_embeddings = False
    model.lm_head.weight = nn.Parameter(torch.empty(len(language.words), WIDTH))
    _begin_weights(model)
    return model


def _begin_weights(model: Any) -> None:
    for stack in (model.encoder, model.decoder):
        for block in stack.block:
            for part in block.layer[:-1]:
                _begin_attention(part)
            mlp = block.layer[-1].DenseReluDense
            mlp.wi.weight.normal_(std=WIDTH**-0.5)
            mlp.wo.weight.normal_(std=FAINT * MLP_WIDTH**-0.5)


def _begin_attention(part: Any) -> None:
    attention = part.EncDecAttention if hasattr(part, "EncDecAttention") else part.SelfAttention
    for linear in (attention.q, attention.k, attention.v, attention.o):
        linear.weight.normal_(std=WIDTH**-0.5)
    if not attention.is_decoder:
        attention.k.weight.mul_(0.5).add_(attention.q.weight, alpha=0.7)
    # A T5 does not scale its scores.
    attention.q.weight.mul_(HEAD_WIDTH**-0.5)
    attention.o.weight.mul_(FAINT)


def _look_at_neighbours(model: Any) -> None:
    bias = shared_position_bias(model.encoder)
    bias.zero_()
    bias[0, _FREE] = -_SHY
    for head, bucket in _LOOKED_AT.items():
        bias[bucket, head] = _SHARP
    for index, block in enumerate(model.encoder.block):
        attention = block.layer[0].SelfAttention
        if index != _COUNTS:
            for part in (attention.q, attention.k):
                part.weight[: 2 * HEAD_WIDTH].mul_(_QUIET)
        if index < _COPIES:
            attention.o.weight.mul_(_FAINTER / FAINT)


def _begin_to_count(model: Any) -> None:
    ahead = torch.arange(1, _EXACT)
    for head, half_way in _FAR_FROM.items():
        rising = _RISE * (ahead - half_way).clamp(-_RISE, _RISE)
        near = int(head in _LOOKED_AT)
        shared_position_bias(model.encoder)[AHEAD + 1 + near : AHEAD + _EXACT, head] = rising[near:]
    bias = shared_position_bias(model.decoder).normal_(std=FAINT)
    distance = torch.arange(2 * _EXACT)
    for head in range(HEADS - 1):
        bias[: 2 * _EXACT, head] += _TOLD_APART * (2 * (distance >> head & 1) - 1)


def shared_position_bias(stack: Any) -> torch.Tensor:
    """The relative position bias, by bucket and head, which all layers of a stack share."""
    return stack.block[0].layer[0].SelfAttention.relative_attention_bias.weight


def _prepare_look_ups(model: Any) -> None:
    copied, found, value = LookUps.initialise(model.shared, model.lm_head)
    first = model.encoder.block[_COPIES].layer[0].SelfAttention
    first.v.weight[:HEAD_WIDTH] = value
    first.o.weight[:, :HEAD_WIDTH] = FAINT * copied
    for index, looked_for in zip(_MATCHES, (copied, found), strict=True):
        attention = model.encoder.block[index].layer[0].SelfAttention
        n_rows = attention.q.weight[_FREE_ROWS].shape[0]
        matched = HEAD_WIDTH**-0.5 * torch.randn(n_rows, HEAD_WIDTH)
        attention.q.weight[_FREE_ROWS] = HEAD_WIDTH**-0.5 * matched @ looked_for.T
        attention.k.weight[_FREE_ROWS] = matched @ copied.T
        attention.v.weight[_FREE_ROWS] = value.repeat(n_rows // HEAD_WIDTH, 1)
        attention.o.weight[:, _FREE_ROWS] = FAINT * found.repeat(1, n_rows // HEAD_WIDTH)
    fetch = model.decoder.block[_FETCHES].layer[1].EncDecAttention
    fetch.v.weight.copy_((found.T * HEAD_WIDTH / WIDTH).repeat(HEADS, 1))
    fetch.o.weight.copy_(FAINT * found.repeat(1, HEADS))
