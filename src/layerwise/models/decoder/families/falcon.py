"""Falcon, whose attention makes queries, keys and values in one product and attends itself.

Source: Almazrouei et al. 2023 (arXiv:2311.16867), in all of its layouts with rotary positions:
attention and MLP beside each other behind one norm or two, or one after the other.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers.models.falcon.modeling_falcon import apply_rotary_pos_emb

from layerwise.models.decoder.capture import attend
from layerwise.models.decoder.parts import Parts
from layerwise.models.decoder.reading import FamilyTraits, UnknownArchitecture, read_parts

from .handing_over import HandingOver

ARCHITECTURES = ("FalconForCausalLM",)


def parts_of(original: nn.Module) -> Parts:
    """The parts of a Falcon."""
    config: Any = original.config
    if config.alibi:
        raise UnknownArchitecture(
            "Its own modules cannot be run, since its positions are slopes of scores (ALiBi): "
            "expected rotary positions or a table of them; use another model."
        )
    return read_parts(original, FamilyTraits(handing_over=_HandingOver))


class _HandingOver(HandingOver):
    """A Falcon's attention up to where it attends."""

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        **given: Any,
    ) -> Any:
        """As attention modules that use transformers' attention interface; see ``capture``."""
        made = self.attention._split_heads(self.attention.query_key_value(hidden_states))
        query, key, value = (heads.transpose(1, 2) for heads in made)
        query, key = apply_rotary_pos_emb(query, key, *position_embeddings)
        return attend(self, query, key, value, attention_mask)
