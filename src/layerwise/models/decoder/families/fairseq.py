"""OPT, BioGPT and XGLM, as fairseq builds decoders.

Their tables of positions begin behind two rows, and layers have no module for the MLP. Sources:
Zhang et al. 2022 (arXiv:2205.01068), Luo et al. 2022 (arXiv:2210.10341), Lin et al. 2021
(arXiv:2112.10668). The OPT of 350 million parameters has norms behind the sublayers' sums, and is
not run.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import nn

from layerwise.models.decoder.capture import attend
from layerwise.models.decoder.parts import Parts
from layerwise.models.decoder.reading import FamilyTraits, read_parts, unknown

from .handing_over import TwoProducts, WithProjections

ARCHITECTURES = ("OPTForCausalLM", "BioGptForCausalLM", "XGLMForCausalLM")


def parts_of(original: nn.Module) -> Parts:
    """The parts of one of them."""
    how = FamilyTraits(positions=_Positions, mlp=_mlp)
    if type(original).__name__ == "OPTForCausalLM":
        _refuse_other_opts(original)
        how = replace(how, within=_decoder)
    elif type(original).__name__ == "XGLMForCausalLM":
        how = replace(how, handing_over=_HandingOver)
    return read_parts(original, how)


def _refuse_other_opts(original: nn.Module) -> None:
    config: Any = original.config
    if not config.do_layer_norm_before:
        raise unknown(original, "has norms behind the sums of its layers")
    if config._remove_final_layer_norm:
        raise unknown(original, "has no norm behind its layers")
    if config.word_embed_proj_dim != config.hidden_size:
        raise unknown(original, "projects its embeddings")


def _decoder(base: Any) -> Any:
    return base.decoder


class _HandingOver(WithProjections):
    """An XGLM's attention up to where it attends."""

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None, **given: Any
    ) -> Any:
        """As attention modules that use transformers' attention interface; see ``capture``."""
        query, key, value = (heads.transpose(1, 2) for heads in self.made(hidden_states))
        return attend(self, query, key, value, attention_mask, scaling=self.attention.scaling)


class _Positions(nn.Module):
    """What is added to embeddings, at positions from 0 on."""

    def __init__(self, decoder: Any) -> None:
        super().__init__()
        self.table: Any = decoder.embed_positions

    def forward(self, positions: Int[torch.Tensor, "*any"]) -> Float[torch.Tensor, "*any d_model"]:
        """The rows of some positions."""
        # XGLM's are sines, which no file holds.
        table = self.table
        rows = table.weight if hasattr(table, "weight") else table.weights
        return F.embedding(positions + table.offset, rows)


def _mlp(layer: Any) -> TwoProducts:
    """The MLP of a layer."""
    return TwoProducts(layer.fc1, layer.activation_fn, layer.fc2)
