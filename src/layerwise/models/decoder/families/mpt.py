"""MPT: scores grow with a key's position, and queries, keys and values may be clipped.

Source: MosaicML 2023, "Introducing MPT-7B" (their page on the model).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers.models.mpt.modeling_mpt import build_mpt_alibi_tensor

from layerwise.models.decoder.capture import Heads
from layerwise.models.decoder.parts import Parts
from layerwise.models.decoder.reading import FamilyTraits, read_parts

from .handing_over import TwoProducts, WithSlopes

ARCHITECTURES = ("MptForCausalLM",)


def parts_of(original: nn.Module) -> Parts:
    """The parts of an MPT."""
    how = FamilyTraits(handing_over=_HandingOver, rotary=lambda base: None, mlp=_mlp)
    return read_parts(original, how)


class _HandingOver(WithSlopes):
    """An MPT's attention up to where it attends."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__(attention)
        # Between the last two positions a score grows by the slope.
        alibi = build_mpt_alibi_tensor(self.attention.n_heads, 2)
        self.slopes = (alibi[:, 0, 1] - alibi[:, 0, 0]).tolist()
        self.scaling = self.attention.softmax_scale

    def made(self, hidden_states: torch.Tensor) -> tuple[Heads, Heads, Heads]:
        """Queries, keys and values, by head, as many of each."""
        own = self.attention
        made = own.Wqkv(hidden_states)
        if own.clip_qkv:
            made = made.clamp(min=-own.clip_qkv, max=own.clip_qkv)
        query, key, value = made.unflatten(-1, (3, own.n_heads, own.head_dim)).unbind(-3)
        return query, key, value


def _mlp(layer: Any) -> TwoProducts:
    """The MLP of a layer, which in the original adds the stream itself."""
    return TwoProducts(layer.ffn.up_proj, layer.ffn.act, layer.ffn.down_proj)
