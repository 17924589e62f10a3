"""GPT-J: attention turns pairs of neighbours, by angles that no module shares with the layers.

Source: Wang and Komatsuzaki 2021 (GPT-J-6B); the turns are those of Su et al. 2021
(arXiv:2104.09864, section 3.4.2).
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import nn
from transformers.models.gptj.modeling_gptj import apply_rotary_pos_emb

from layerwise.models.decoder.capture import attend
from layerwise.models.decoder.parts import Parts
from layerwise.models.decoder.reading import FamilyTraits, read_parts

from .handing_over import WithProjections

ARCHITECTURES = ("GPTJForCausalLM",)
Turns = Float[torch.Tensor, "rows pos _"]  # one row for all of a batch, or one for each


def parts_of(original: nn.Module) -> Parts:
    """The parts of a GPT-J."""
    config: Any = original.config
    turned = int(config.rotary_dim or config.n_embd)
    return read_parts(
        original, FamilyTraits(handing_over=_HandingOver, rotary=lambda base: _Turns(turned))
    )


class _Turns(nn.Module):
    """Sines and cosines of positions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(
        self, x: torch.Tensor, position_ids: Int[torch.Tensor, "batch pos"]
    ) -> tuple[Turns, Turns]:
        """Those of some positions, in the number format of ``x``."""
        # In this order, as the original rounds them: late positions would be turned otherwise.
        steps = torch.arange(0, self.width, 2, device=position_ids.device) / self.width
        angles = position_ids[..., None].float() * (1.0 / 10000**steps)
        return angles.sin().to(x.dtype), angles.cos().to(x.dtype)


class _HandingOver(WithProjections):
    """A GPT-J's attention up to where it attends."""

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None,
        position_embeddings: tuple[Turns, Turns],
        **given: Any,
    ) -> Any:
        """As attention modules that use transformers' attention interface; see ``capture``."""
        query, key, value = self.made(hidden_states)
        width = self.attention.rotary_dim
        query, key = (_turned(heads, width, *position_embeddings) for heads in (query, key))
        query, key, value = (heads.transpose(1, 2) for heads in (query, key, value))
        return attend(self, query, key, value, attention_mask)


def _turned(
    heads: Float[torch.Tensor, "batch pos head d_head"], width: int | None, sin: Turns, cos: Turns
) -> Float[torch.Tensor, "batch pos head d_head"]:
    """Heads of which the first so many numbers are turned; all if None."""
    turned = apply_rotary_pos_emb(heads[..., :width], sin, cos)
    return turned if width is None else torch.cat([turned, heads[..., width:]], dim=-1)
