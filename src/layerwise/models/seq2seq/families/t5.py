"""T5, T5 v1.1, flan-T5 and mT5: pre-norm, RMS norm, relative position bias, unscaled scores."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from layerwise.models.files.written_folder import StoredStack
from layerwise.models.seq2seq.parts import (
    MlpParts,
    RelativeBias,
    Seq2SeqAttentionParts,
    Seq2SeqBlockParts,
    Seq2SeqParts,
    StackParts,
    activation,
)

ARCHITECTURES = ("T5ForConditionalGeneration", "MT5ForConditionalGeneration")
N_CTX = 512  # what the released models were trained with, where config.json does not say
_BIAS = ("layer.0.SelfAttention.relative_attention_bias.weight",)
STORED = (
    StoredStack("num_layers", "encoder.block.", _BIAS),
    StoredStack("num_decoder_layers", "decoder.block.", _BIAS),
)


def parts_of(original: Any) -> Seq2SeqParts:
    """The parts of a ``T5ForConditionalGeneration`` or ``MT5ForConditionalGeneration``."""
    config = original.config
    # Only T5 itself scales the decoder's output, where it was trained with tied embeddings.
    scaled = getattr(config, "scale_decoder_outputs", False)
    return Seq2SeqParts(
        encoder=_stack(original.encoder, bidirectional=True),
        decoder=_stack(original.decoder, bidirectional=False),
        unembed=original.lm_head,
        unembed_bias=lambda: None,
        unembed_scale=config.d_model**-0.5 if scaled else 1.0,
        embedding=original.encoder.embed_tokens,
        n_ctx=getattr(config, "n_positions", None) or N_CTX,
    )


def _stack(stack: Any, *, bidirectional: bool) -> StackParts:
    first = stack.block[0].layer[0].SelfAttention
    return StackParts(
        blocks=tuple(_block(block) for block in stack.block),
        embed=partial(_without_positions, stack.embed_tokens),
        final_norm=stack.final_layer_norm,
        post_norm=False,
        relative=RelativeBias(
            first.relative_attention_bias, bidirectional, first.relative_attention_max_distance
        ),
    )


def _without_positions(
    embedding: torch.nn.Embedding, tokens: torch.Tensor, positions: torch.Tensor
) -> torch.Tensor:
    return embedding(tokens)


def _block(block: Any) -> Seq2SeqBlockParts:
    attn, *cross, mlp = block.layer
    dense = mlp.DenseReluDense
    gated = hasattr(dense, "wi_0")
    return Seq2SeqBlockParts(
        attn=_attention(attn.SelfAttention),
        attn_norm=attn.layer_norm,
        mlp=MlpParts(
            up=dense.wi_1 if gated else dense.wi,
            down=dense.wo,
            act=activation(dense.act),
            gate=dense.wi_0 if gated else None,
        ),
        mlp_norm=mlp.layer_norm,
        cross_attn=_attention(cross[0].EncDecAttention) if cross else None,
        cross_norm=cross[0].layer_norm if cross else None,
    )


def _attention(attention: Any) -> Seq2SeqAttentionParts:
    parts = (attention.q, attention.k, attention.v, attention.o)
    return Seq2SeqAttentionParts(*parts, n_heads=attention.n_heads, scale=1.0)
