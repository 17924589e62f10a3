"""GPT-Neo: attention attends itself, unscaled, and in every other layer to the last tokens alone.

Source: Black et al. 2021 (doi:10.5281/zenodo.5297715).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from layerwise.models.decoder.capture import attend
from layerwise.models.decoder.parts import Parts
from layerwise.models.decoder.reading import FamilyTraits, read_parts

from .handing_over import WithProjections

ARCHITECTURES = ("GPTNeoForCausalLM",)


def parts_of(original: nn.Module) -> Parts:
    """The parts of a GPT-Neo."""
    return read_parts(original, FamilyTraits(handing_over=_HandingOver))


class _HandingOver(WithProjections):
    """A GPT-Neo's attention up to where it attends."""

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None, **given: Any
    ) -> Any:
        """As attention modules that use transformers' attention interface; see ``capture``."""
        own = self.attention
        query, key, value = (heads.transpose(1, 2) for heads in self.made(hidden_states))
        window = own.config.window_size if own.attention_type == "local" else None
        return attend(self, query, key, value, attention_mask, scaling=1.0, sliding_window=window)
