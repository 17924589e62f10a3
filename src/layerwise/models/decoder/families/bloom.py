"""Bloom: embeddings are normed, and scores grow with a key's position, by a slope for each head.

Source: Le Scao et al. 2022 (arXiv:2211.05100).
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import nn
from transformers.models.bloom.modeling_bloom import build_alibi_tensor

from layerwise.models.decoder.capture import Heads
from layerwise.models.decoder.parts import Parts
from layerwise.models.decoder.reading import FamilyTraits, read_parts, unknown

from .handing_over import TwoProducts, WithSlopes

ARCHITECTURES = ("BloomForCausalLM",)


def parts_of(original: nn.Module) -> Parts:
    """The parts of a Bloom."""
    config: Any = original.config
    if config.apply_residual_connection_post_layernorm:
        raise unknown(original, "adds what its layers make to the normed stream")
    how = FamilyTraits(
        handing_over=_HandingOver, embedding=_Embedding, rotary=lambda base: None, mlp=_mlp
    )
    return read_parts(original, how)


class _Embedding(nn.Module):
    """Normed embeddings."""

    def __init__(self, base: Any) -> None:
        super().__init__()
        self.table, self.norm = base.word_embeddings, base.word_embeddings_layernorm

    @property
    def weight(self) -> nn.Parameter:
        """The table, before the norm."""
        return self.table.weight

    @property
    def num_embeddings(self) -> int:
        """Tokens that can be read."""
        return self.table.num_embeddings

    def forward(self, tokens: Int[torch.Tensor, "*any"]) -> Float[torch.Tensor, "*any d_model"]:
        """What enters the first layer."""
        return self.norm(self.table(tokens))


class _HandingOver(WithSlopes):
    """A Bloom's attention up to where it attends."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__(attention)
        alibi = build_alibi_tensor(torch.ones(1, 2), self.attention.num_heads, torch.float32)
        self.slopes, self.scaling = alibi[:, 0, 1].tolist(), self.attention.inv_norm_factor

    def made(self, hidden_states: torch.Tensor) -> tuple[Heads, Heads, Heads]:
        """Queries, keys and values, by head, as many of each."""
        own = self.attention
        made = own.query_key_value(hidden_states).unflatten(-1, (own.num_heads, 3, own.head_dim))
        query, key, value = made.unbind(-2)
        return query, key, value


def _mlp(layer: Any) -> TwoProducts:
    """The MLP of a layer, which in the original adds the stream itself."""
    mlp = layer.mlp
    return TwoProducts(mlp.dense_h_to_4h, mlp.gelu_impl, mlp.dense_4h_to_h)
