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

from layerwise.models.decoder.parts import Parts
from layerwise.models.decoder.reading import FamilyTraits, read_parts, unknown

from .own_attention import HandingOver, TwoProducts


def _parts_of(original: nn.Module) -> Parts:
    how = FamilyTraits(positions=_Positions, mlp=_mlp)
    if type(original).__name__ == "OPTForCausalLM":
        _refuse_other_opts(original)
        how = replace(how, within=lambda base: base.decoder)
    elif type(original).__name__ == "XGLMForCausalLM":
        how = replace(how, handing_over=lambda attn: HandingOver(attn, scaling=attn.scaling))
    return read_parts(original, how)


PARTS_OF = dict.fromkeys(("OPTForCausalLM", "BioGptForCausalLM", "XGLMForCausalLM"), _parts_of)


def _refuse_other_opts(original: nn.Module) -> None:
    config: Any = original.config
    if not config.do_layer_norm_before:
        raise unknown(original, "has norms behind the sums of its layers")
    if config._remove_final_layer_norm:
        raise unknown(original, "has no norm behind its layers")
    if config.word_embed_proj_dim != config.hidden_size:
        raise unknown(original, "projects its embeddings")


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
