"""OPT: a table of positions that begins behind two rows, and layers without a module for the MLP.

Source: Zhang et al. 2022 (arXiv:2205.01068). The one of 350 million parameters has norms behind
the sublayers' sums, and is not run.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import nn

from ..parts import Parts
from ..reading import Reading, read_parts, unknown

ARCHITECTURES = ("OPTForCausalLM",)


def parts_of(original: nn.Module) -> Parts:
    """The parts of an OPT.

    Raises:
        UnknownArchitecture: if norms stand behind sums, at the end there is none, or embeddings
            are projected.
    """
    config: Any = original.config
    if not config.do_layer_norm_before:
        raise unknown(original, "has norms behind the sums of its layers")
    if config._remove_final_layer_norm:
        raise unknown(original, "has no norm behind its layers")
    if config.word_embed_proj_dim != config.hidden_size:
        raise unknown(original, "projects its embeddings")
    return read_parts(original, Reading(within=_decoder, positions=_Positions, mlp=_Mlp))


def _decoder(base: Any) -> Any:
    return base.decoder


class _Positions(nn.Module):
    """What is added to embeddings, at positions from 0 on."""

    def __init__(self, decoder: Any) -> None:
        super().__init__()
        self.table: Any = decoder.embed_positions

    def forward(self, positions: Int[torch.Tensor, "*any"]) -> Float[torch.Tensor, "*any d_model"]:
        """The rows of some positions."""
        return F.embedding(positions + self.table.offset, self.table.weight)


class _Mlp(nn.Module):
    """The MLP of a layer."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = layer.fc1, layer.activation_fn, layer.fc2

    def forward(
        self, x: Float[torch.Tensor, "*any d_model"]
    ) -> Float[torch.Tensor, "*any d_model"]:
        """What it adds to the stream."""
        return self.fc2(self.act(self.fc1(x)))
