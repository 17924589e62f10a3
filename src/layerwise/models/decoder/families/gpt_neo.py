"""GPT-Neo: attention attends itself, unscaled, and in every other layer to the last tokens alone.

Source: Black et al. 2021 (doi:10.5281/zenodo.5297715).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..capture import attend
from ..parts import Parts
from ..reading import Reading, read_parts

ARCHITECTURES = ("GPTNeoForCausalLM",)


def parts_of(original: nn.Module) -> Parts:
    """The parts of a GPT-Neo."""
    return read_parts(original, Reading(handing_over=_HandingOver))


class _HandingOver(nn.Module):
    """A GPT-Neo's attention up to where it attends."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.attention: Any = attention
        self.q_proj, self.k_proj, self.v_proj = (
            self.attention.get_submodule(name) for name in ("q_proj", "k_proj", "v_proj")
        )

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None, **given: Any
    ) -> Any:
        """As attention modules that use transformers' attention interface; see ``capture``."""
        own = self.attention
        query, key, value = (
            own._split_heads(made(hidden_states), own.num_heads, own.head_dim)
            for made in (self.q_proj, self.k_proj, self.v_proj)
        )
        window = own.config.window_size if own.attention_type == "local" else None
        return attend(self, query, key, value, attention_mask, scaling=1.0, sliding_window=window)
