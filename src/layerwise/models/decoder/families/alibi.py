"""Bloom and MPT, whose scores grow with a key's position, by a slope for each head (ALiBi).

Sources: Le Scao et al. 2022 (arXiv:2211.05100), MosaicML 2023 ("Introducing MPT-7B"), Press et al.
2021 (arXiv:2108.12409).
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import nn
from transformers.models.bloom.modeling_bloom import build_alibi_tensor
from transformers.models.mpt.modeling_mpt import build_mpt_alibi_tensor

from layerwise.models.decoder.capture import Heads, attend
from layerwise.models.decoder.parts import Parts
from layerwise.models.decoder.reading import FamilyTraits, read_parts, unknown

from .own_attention import HandingOver, TwoProducts

_LOW = 256


class _WithSlopes(HandingOver):
    """Attention in which scores grow with a key's position."""

    # What is added is a product, and so more dimensions of queries and keys, written such that
    # little but a key's distance is left to be rounded in a narrow number format: a position is two
    # numbers below 256, which are exact, and what depends on the query alone changes no pattern
    # (Press et al. 2021, section 3).

    slopes: list[float]  # how much a score grows from a key to the next, by head

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None, **given: Any
    ) -> Any:
        """As attention modules that use transformers' attention interface; see ``capture``."""
        query, key, value = (heads.transpose(1, 2) for heads in self.made(hidden_states))
        places = given["position_ids"][:, None].expand(*query.shape[:-1])
        slopes = torch.tensor(self.slopes, device=query.device)[:, None] / self.options["scaling"]
        grown = slopes.expand(places.shape)
        beside_query = torch.stack([_LOW * grown, grown, -grown * places], dim=-1)
        beside_key = torch.stack([places // _LOW, places % _LOW, torch.ones_like(places)], dim=-1)
        query = torch.cat([query, beside_query.to(query)], dim=-1)
        key = torch.cat([key, beside_key.to(key)], dim=-1)
        return attend(self, query, key, value, attention_mask, **self.options)


class _BloomAttention(_WithSlopes):
    def __init__(self, attention: Any) -> None:
        super().__init__(attention, scaling=attention.inv_norm_factor)
        alibi = build_alibi_tensor(torch.ones(1, 2), attention.num_heads, torch.float32)
        self.slopes = alibi[:, 0, 1].tolist()

    def made(self, hidden_states: torch.Tensor, **given: Any) -> tuple[Heads, Heads, Heads]:
        """Queries, keys and values of one product, head by head."""
        own = self.attention
        made = own.query_key_value(hidden_states).unflatten(-1, (own.num_heads, 3, own.head_dim))
        query, key, value = made.unbind(-2)
        return query, key, value


class _BloomEmbedding(nn.Module):
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


def _bloom_mlp(layer: Any) -> TwoProducts:
    """The MLP of a layer, which in the original adds the stream itself."""
    mlp = layer.mlp
    return TwoProducts(mlp.dense_h_to_4h, mlp.gelu_impl, mlp.dense_4h_to_h)


def _bloom(original: nn.Module) -> Parts:
    config: Any = original.config
    if config.apply_residual_connection_post_layernorm:
        raise unknown(original, "adds what its layers make to the normed stream")
    how = FamilyTraits(
        handing_over=_BloomAttention,
        embedding=_BloomEmbedding,
        rotary=lambda base: None,
        mlp=_bloom_mlp,
    )
    return read_parts(original, how)


class _MptAttention(_WithSlopes):
    def __init__(self, attention: Any) -> None:
        super().__init__(attention, scaling=attention.softmax_scale)
        # Between the last two positions a score grows by the slope.
        alibi = build_mpt_alibi_tensor(attention.n_heads, 2)
        self.slopes = (alibi[:, 0, 1] - alibi[:, 0, 0]).tolist()

    def made(self, hidden_states: torch.Tensor, **given: Any) -> tuple[Heads, Heads, Heads]:
        """Queries, keys and values of one product, which may be clipped."""
        own = self.attention
        made = own.Wqkv(hidden_states)
        if own.clip_qkv:
            made = made.clamp(min=-own.clip_qkv, max=own.clip_qkv)
        query, key, value = made.unflatten(-1, (3, own.n_heads, own.head_dim)).unbind(-3)
        return query, key, value


def _mpt(original: nn.Module) -> Parts:
    how = FamilyTraits(
        handing_over=_MptAttention,
        rotary=lambda base: None,
        # In the original it adds the stream itself.
        mlp=lambda layer: TwoProducts(layer.ffn.up_proj, layer.ffn.act, layer.ffn.down_proj),
    )
    return read_parts(original, how)


PARTS_OF = {"BloomForCausalLM": _bloom, "MptForCausalLM": _mpt}
