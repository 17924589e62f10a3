"""BART, mBART, Marian and Pegasus, as fairseq builds encoder-decoders.

BART and mBART have learned positions and a norm of the embedding, Marian and Pegasus sinusoids;
BART and Marian have norms behind the sums, mBART and Pegasus before the sublayers.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from layerwise.models.files.written_folder import StoredStack
from layerwise.models.seq2seq.parts import (
    Embed,
    MlpParts,
    Seq2SeqAttentionParts,
    Seq2SeqBlockParts,
    Seq2SeqParts,
    StackParts,
    activation,
)

STORED = (
    StoredStack("encoder_layers", "encoder.layers."),
    StoredStack("decoder_layers", "decoder.layers."),
)


def _with_sinusoids(stack: Any, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Scaled token embedding plus a table of sinusoids by position."""
    return stack.embed_tokens(tokens) * stack.embed_scale + stack.embed_positions.weight[positions]


def _embed_with_positions(
    stack: Any, tokens: torch.Tensor, positions: torch.Tensor
) -> torch.Tensor:
    """Token embedding (which scales itself) plus learned positions, and a norm of both."""
    table = stack.embed_positions
    return stack.layernorm_embedding(
        stack.embed_tokens(tokens) + table.weight[positions + table.offset]
    )


# What embeds tokens, and whether norms come behind the sums.
_KINDS = {
    "BartForConditionalGeneration": (_embed_with_positions, True),
    "MBartForConditionalGeneration": (_embed_with_positions, False),
    "MarianMTModel": (_with_sinusoids, True),
    "PegasusForConditionalGeneration": (_with_sinusoids, False),
}
ARCHITECTURES = tuple(_KINDS)


def parts_of(original: Any) -> Seq2SeqParts:
    """The parts of a model with ``model.encoder``, ``model.decoder`` and ``lm_head``."""
    embed, post_norm = _KINDS[type(original).__name__]
    encoder, decoder = original.model.encoder, original.model.decoder
    return Seq2SeqParts(
        encoder=_stack(encoder, embed, post_norm),
        decoder=_stack(decoder, embed, post_norm),
        unembed=original.lm_head,
        unembed_bias=partial(_logits_bias, original),
        unembed_scale=1.0,
        embedding=encoder.embed_tokens,
        n_ctx=original.config.max_position_embeddings,
    )


def _stack(stack: Any, embed: Embed, post_norm: bool) -> StackParts:
    final = torch.nn.Identity() if post_norm else stack.layer_norm
    blocks = tuple(_block(layer) for layer in stack.layers)
    # A partial function and no closure: a copy of a model must read the copy's own weights.
    return StackParts(blocks, partial(embed, stack), final, post_norm, None)


def _block(layer: Any) -> Seq2SeqBlockParts:
    cross = getattr(layer, "encoder_attn", None)
    return Seq2SeqBlockParts(
        attn=_attention(layer.self_attn),
        attn_norm=layer.self_attn_layer_norm,
        mlp=MlpParts(layer.fc1, layer.fc2, activation(layer.activation_fn)),
        mlp_norm=layer.final_layer_norm,
        cross_attn=None if cross is None else _attention(cross),
        cross_norm=None if cross is None else layer.encoder_attn_layer_norm,
    )


def _attention(attention: Any) -> Seq2SeqAttentionParts:
    projections = (attention.q_proj, attention.k_proj, attention.v_proj, attention.out_proj)
    return Seq2SeqAttentionParts(*projections, n_heads=attention.num_heads, scale=attention.scaling)


def _logits_bias(original: Any) -> torch.Tensor:
    return original.final_logits_bias[0]
