"""MPT: scores grow with a key's position, and queries, keys and values may be clipped.

Source: MosaicML 2023, "Introducing MPT-7B" (their page on the model).
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import nn
from transformers.models.mpt.modeling_mpt import build_mpt_alibi_tensor

from ..capture import attend
from ..parts import Parts
from ..reading import Reading, read_parts
from .handing_over import Positions, WithSlopes

ARCHITECTURES = ("MptForCausalLM",)


def parts_of(original: nn.Module) -> Parts:
    """The parts of an MPT."""
    return read_parts(
        original, Reading(handing_over=_HandingOver, rotary=lambda base: None, mlp=_Mlp)
    )


class _HandingOver(WithSlopes):
    """An MPT's attention up to where it attends."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__(attention)
        # Between the last two positions a score grows by the slope.
        alibi = build_mpt_alibi_tensor(self.attention.n_heads, 2)
        self.slopes = (alibi[:, 0, 1] - alibi[:, 0, 0]).tolist()

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None,
        position_ids: Positions,
        **given: Any,
    ) -> Any:
        """As attention modules that use transformers' attention interface; see ``capture``."""
        own = self.attention
        made = own.Wqkv(hidden_states)
        if own.clip_qkv:
            made = made.clamp(min=-own.clip_qkv, max=own.clip_qkv)
        query, key, value = (
            heads.unflatten(-1, (own.n_heads, own.head_dim)).transpose(1, 2)
            for heads in made.chunk(3, dim=-1)
        )
        query, key = self.sloped(query, key, position_ids, own.softmax_scale)
        return attend(self, query, key, value, attention_mask, scaling=own.softmax_scale)


class _Mlp(nn.Module):
    """The MLP of a layer, which in the original adds the stream itself."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.up, self.act, self.down = layer.ffn.up_proj, layer.ffn.act, layer.ffn.down_proj

    def forward(
        self, x: Float[torch.Tensor, "*any d_model"]
    ) -> Float[torch.Tensor, "*any d_model"]:
        """What it adds to the stream."""
        return self.down(self.act(self.up(x)))
