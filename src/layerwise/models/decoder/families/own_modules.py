"""Families that need code of their own, each up to where queries, keys and values are made.

Attention that attends itself: Falcon (Almazrouei et al. 2023, arXiv:2311.16867, in all of its
layouts with rotary positions), GPT-J (Wang and Komatsuzaki 2021; turns of Su et al. 2021,
arXiv:2104.09864, section 3.4.2), GPT-Neo (Black et al. 2021, doi:10.5281/zenodo.5297715). Scores
that grow with a key's position, by a slope for each head (ALiBi, Press et al. 2021,
arXiv:2108.12409): Bloom (Le Scao et al. 2022, arXiv:2211.05100), MPT (MosaicML 2023, "Introducing
MPT-7B"). As fairseq builds decoders, with tables of positions behind two rows and no module for the
MLP: OPT (Zhang et al. 2022, arXiv:2205.01068), BioGPT (Luo et al. 2022, arXiv:2210.10341), XGLM
(Lin et al. 2021, arXiv:2112.10668). The OPT of 350 million parameters has norms behind the
sublayers' sums, and is not run.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import nn
from transformers.models.bloom.modeling_bloom import build_alibi_tensor
from transformers.models.falcon.modeling_falcon import apply_rotary_pos_emb as falcon_turned
from transformers.models.gptj.modeling_gptj import apply_rotary_pos_emb as gptj_turned
from transformers.models.mpt.modeling_mpt import build_mpt_alibi_tensor

from layerwise.models.decoder.capture import Heads, attend
from layerwise.models.decoder.parts import DecoderParts
from layerwise.models.decoder.reading import (
    FamilyTraits,
    UnknownArchitecture,
    read_parts,
    unknown,
)

Turns = Float[torch.Tensor, "rows pos _"]  # one row for all of a batch, or one for each


class InterfaceAttention(nn.Module):
    """An attention module whose ``forward`` is called as those that use transformers' interface."""

    def __init__(self, attention: nn.Module, **options: Any) -> None:
        super().__init__()
        self.attention: Any = attention  # the original's
        self.options = options  # what else its attention function is given, such as ``scaling``

    def project_qkv(self, hidden_states: torch.Tensor, **given: Any) -> tuple[Heads, Heads, Heads]:
        """Queries, keys and values, by head; of projections, if they are a product each."""
        own = self.attention
        query, key, value = (
            make(hidden_states).unflatten(-1, (-1, own.head_dim))
            for make in (own.q_proj, own.k_proj, own.v_proj)
        )
        return query, key, value

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None, **given: Any
    ) -> Any:
        """As attention modules that use transformers' attention interface; see ``capture``."""
        query, key, value = (
            heads.transpose(1, 2) for heads in self.project_qkv(hidden_states, **given)
        )
        return attend(self, query, key, value, attention_mask, **self.options)


class TwoProducts(nn.Module):
    """MLP of two products, by modules of the original."""

    def __init__(self, up: nn.Module, act: nn.Module, down: nn.Module) -> None:
        super().__init__()
        self.up, self.act, self.down = up, act, down  # first product, activation, second product

    def forward(
        self, x: Float[torch.Tensor, "*any d_model"]
    ) -> Float[torch.Tensor, "*any d_model"]:
        """Output that it adds to the stream."""
        return self.down(self.act(self.up(x)))


class _Falcon(InterfaceAttention):
    def project_qkv(self, hidden_states: torch.Tensor, **given: Any) -> tuple[Heads, Heads, Heads]:
        """Queries, keys and values of one product, rotated."""
        own = self.attention
        query, key, value = own._split_heads(own.query_key_value(hidden_states))
        turned = falcon_turned(
            query.transpose(1, 2), key.transpose(1, 2), *given["position_embeddings"]
        )
        return turned[0].transpose(1, 2), turned[1].transpose(1, 2), value


def _falcon(original: nn.Module) -> DecoderParts:
    config: Any = original.config
    if config.alibi:
        raise UnknownArchitecture(
            "Its own modules cannot be run, since its positions are slopes of scores (ALiBi): "
            "expected rotary positions or a table of them; use another model."
        )
    return read_parts(original, FamilyTraits(handing_over=_Falcon))


class _Turns(nn.Module):
    """Sines and cosines of positions, which no module of a GPT-J shares with its layers."""

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


class _GPTJ(InterfaceAttention):
    def project_qkv(self, hidden_states: torch.Tensor, **given: Any) -> tuple[Heads, Heads, Heads]:
        """Queries and keys of which pairs of neighbours are turned, and values."""
        query, key, value = super().project_qkv(hidden_states)
        query, key = (
            self._rotate_heads(heads, *given["position_embeddings"]) for heads in (query, key)
        )
        return query, key, value

    def _rotate_heads(self, heads: Heads, sin: Turns, cos: Turns) -> Heads:
        """Heads of which the first so many numbers are turned; all if the width is None."""
        width = self.attention.rotary_dim
        turned = gptj_turned(heads[..., :width], sin, cos)
        return turned if width is None else torch.cat([turned, heads[..., width:]], dim=-1)


def _gptj(original: nn.Module) -> DecoderParts:
    config: Any = original.config
    width = int(config.rotary_dim or config.n_embd)
    return read_parts(original, FamilyTraits(handing_over=_GPTJ, rotary=lambda base: _Turns(width)))


def _neo_attention(attention: Any) -> InterfaceAttention:
    """Unscaled, and in every other layer to the last tokens alone."""
    window = attention.config.window_size if attention.attention_type == "local" else None
    return InterfaceAttention(attention, scaling=1.0, sliding_window=window)


_LOW = 256


class _AlibiAttention(InterfaceAttention):
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
        query, key, value = (heads.transpose(1, 2) for heads in self.project_qkv(hidden_states))
        places = given["position_ids"][:, None].expand(*query.shape[:-1])
        slopes = torch.tensor(self.slopes, device=query.device)[:, None] / self.options["scaling"]
        grown = slopes.expand(places.shape)
        beside_query = torch.stack([_LOW * grown, grown, -grown * places], dim=-1)
        beside_key = torch.stack([places // _LOW, places % _LOW, torch.ones_like(places)], dim=-1)
        query = torch.cat([query, beside_query.to(query)], dim=-1)
        key = torch.cat([key, beside_key.to(key)], dim=-1)
        return attend(self, query, key, value, attention_mask, **self.options)


class _BloomAttention(_AlibiAttention):
    def __init__(self, attention: Any) -> None:
        super().__init__(attention, scaling=attention.inv_norm_factor)
        alibi = build_alibi_tensor(torch.ones(1, 2), attention.num_heads, torch.float32)
        self.slopes = alibi[:, 0, 1].tolist()

    def project_qkv(self, hidden_states: torch.Tensor, **given: Any) -> tuple[Heads, Heads, Heads]:
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
        """Input of the first layer."""
        return self.norm(self.table(tokens))


def _bloom(original: nn.Module) -> DecoderParts:
    config: Any = original.config
    if config.apply_residual_connection_post_layernorm:
        raise unknown(original, "adds what its layers make to the normed stream")
    how = FamilyTraits(
        handing_over=_BloomAttention,
        embedding=_BloomEmbedding,
        rotary=lambda base: None,
        # In the original it adds the stream itself.
        mlp=lambda layer: TwoProducts(
            layer.mlp.dense_h_to_4h, layer.mlp.gelu_impl, layer.mlp.dense_4h_to_h
        ),
    )
    return read_parts(original, how)


class _MptAttention(_AlibiAttention):
    def __init__(self, attention: Any) -> None:
        super().__init__(attention, scaling=attention.softmax_scale)
        # Between the last two positions a score grows by the slope.
        alibi = build_mpt_alibi_tensor(attention.n_heads, 2)
        self.slopes = (alibi[:, 0, 1] - alibi[:, 0, 0]).tolist()

    def project_qkv(self, hidden_states: torch.Tensor, **given: Any) -> tuple[Heads, Heads, Heads]:
        """Queries, keys and values of one product, which may be clipped."""
        own = self.attention
        made = own.Wqkv(hidden_states)
        if own.clip_qkv:
            made = made.clamp(min=-own.clip_qkv, max=own.clip_qkv)
        query, key, value = made.unflatten(-1, (3, own.n_heads, own.head_dim)).unbind(-3)
        return query, key, value


def _mpt(original: nn.Module) -> DecoderParts:
    how = FamilyTraits(
        handing_over=_MptAttention,
        rotary=lambda base: None,
        # In the original it adds the stream itself.
        mlp=lambda layer: TwoProducts(layer.ffn.up_proj, layer.ffn.act, layer.ffn.down_proj),
    )
    return read_parts(original, how)


def _fairseq(original: nn.Module) -> DecoderParts:
    how = FamilyTraits(
        positions=_Positions,
        mlp=lambda layer: TwoProducts(layer.fc1, layer.activation_fn, layer.fc2),
    )
    if type(original).__name__ == "OPTForCausalLM":
        _refuse_other_opts(original)
        how = replace(how, within=lambda base: base.decoder)
    elif type(original).__name__ == "XGLMForCausalLM":
        how = replace(how, handing_over=lambda attn: InterfaceAttention(attn, scaling=attn.scaling))
    return read_parts(original, how)


def _refuse_other_opts(original: nn.Module) -> None:
    config: Any = original.config
    if not config.do_layer_norm_before:
        raise unknown(original, "has norms behind the sums of its layers")
    if config._remove_final_layer_norm:
        raise unknown(original, "has no norm behind its layers")
    if config.word_embed_proj_dim != config.hidden_size:
        raise unknown(original, "projects its embeddings")


class _Positions(nn.Module):
    """Vectors that are added to embeddings, at positions from 0 on."""

    def __init__(self, decoder: Any) -> None:
        super().__init__()
        self.table: Any = decoder.embed_positions

    def forward(self, positions: Int[torch.Tensor, "*any"]) -> Float[torch.Tensor, "*any d_model"]:
        """The rows of some positions."""
        # XGLM's are sines, which no file holds.
        table = self.table
        rows = table.weight if hasattr(table, "weight") else table.weights
        return F.embedding(positions + table.offset, rows)


PARTS_OF = {
    "FalconForCausalLM": _falcon,
    "GPTJForCausalLM": _gptj,
    "GPTNeoForCausalLM": partial(read_parts, how=FamilyTraits(handing_over=_neo_attention)),
    "BloomForCausalLM": _bloom,
    "MptForCausalLM": _mpt,
    **dict.fromkeys(("OPTForCausalLM", "BioGptForCausalLM", "XGLMForCausalLM"), _fairseq),
}
