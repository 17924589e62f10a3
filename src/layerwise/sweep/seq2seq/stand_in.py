"""A few blocks of an encoder-decoder's shape without its weights, to measure how fast they are."""

from __future__ import annotations

import copy
from typing import Any

import torch

from layerwise.models.quiet import quiet
from layerwise.models.seq2seq import Seq2SeqModel
from layerwise.models.seq2seq.families import STORED_IN
from layerwise.models.seq2seq.load import hooked_seq2seq
from layerwise.models.seq2seq.parts import BlockParts

from ..memory import free_memory
from ..stand_in import enough_blocks, fill, size_of


def stand_in_of_two_stacks(outline: Seq2SeqModel, device: str) -> Seq2SeqModel | None:
    """A model of an outline's shape with fewer blocks, and one number for all weights.

    Args:
        outline: a model whose parameters need have no values.
        device: where the stand-in is to be.

    Returns:
        The stand-in; None where it would take more than half of the free memory.
    """
    original: Any = outline.original
    config, kind = copy.deepcopy(original.config), type(original)
    numbers = (outline.cfg.n_encoder_layers, outline.cfg.n_decoder_layers)
    stored = STORED_IN[kind.__name__]
    stacks = (outline.parts.encoder, outline.parts.decoder)
    for fields, stack, number in zip(stored, stacks, numbers, strict=True):
        setattr(config, fields.n_layers, enough_blocks(_bytes(stack.blocks[0]), number))
    with quiet(), torch.device("meta"):
        model = kind(config).to(outline.W_E.dtype)
    if size_of(model) > free_memory(device) // 2:
        return None
    model = model.to_empty(device=device).eval()
    model.tie_weights()
    fill((*model.parameters(), *model.buffers()))
    assert outline.tokenizer is not None, "an outline has its tokenizer"
    return hooked_seq2seq(model, outline.tokenizer, outline.cfg.model_name)


def _bytes(block: BlockParts) -> int:
    """Size of a block's matrices."""
    attentions = [block.attn] if block.cross_attn is None else [block.attn, block.cross_attn]
    linears = [linear for one in attentions for linear in (one.q, one.k, one.v, one.out)]
    linears += [block.mlp.up, block.mlp.down, *([block.mlp.gate] if block.mlp.gate else [])]
    return sum(map(size_of, linears))
