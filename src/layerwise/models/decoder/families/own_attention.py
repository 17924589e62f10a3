"""Families whose attention attends itself: each up to where queries, keys and values are made.

Falcon (Almazrouei et al. 2023, arXiv:2311.16867, in all of its layouts with rotary positions),
GPT-J (Wang and Komatsuzaki 2021; turns of Su et al. 2021, arXiv:2104.09864, section 3.4.2) and
GPT-Neo (Black et al. 2021, doi:10.5281/zenodo.5297715).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import nn
from transformers.models.falcon.modeling_falcon import apply_rotary_pos_emb as falcon_turned
from transformers.models.gptj.modeling_gptj import apply_rotary_pos_emb as gptj_turned

from layerwise.models.decoder.capture import Heads, attend
from layerwise.models.decoder.parts import Parts
from layerwise.models.decoder.reading import FamilyTraits, UnknownArchitecture, read_parts

Turns = Float[torch.Tensor, "rows pos _"]  # one row for all of a batch, or one for each


class HandingOver(nn.Module):
    """An attention module whose ``forward`` is called as those that use transformers' interface."""

    def __init__(self, attention: nn.Module, **options: Any) -> None:
        super().__init__()
        self.attention: Any = attention  # the original's
        self.options = options  # what else its attention function is given, such as ``scaling``

    def made(self, hidden_states: torch.Tensor, **given: Any) -> tuple[Heads, Heads, Heads]:
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
        query, key, value = (heads.transpose(1, 2) for heads in self.made(hidden_states, **given))
        return attend(self, query, key, value, attention_mask, **self.options)


class TwoProducts(nn.Module):
    """What an MLP adds to the stream, by modules of the original."""

    def __init__(self, up: nn.Module, act: nn.Module, down: nn.Module) -> None:
        super().__init__()
        self.up, self.act, self.down = up, act, down  # first product, activation, second product

    def forward(
        self, x: Float[torch.Tensor, "*any d_model"]
    ) -> Float[torch.Tensor, "*any d_model"]:
        """What it adds to the stream."""
        return self.down(self.act(self.up(x)))


class _Falcon(HandingOver):
    def made(self, hidden_states: torch.Tensor, **given: Any) -> tuple[Heads, Heads, Heads]:
        """Queries, keys and values of one product, rotated."""
        own = self.attention
        query, key, value = own._split_heads(own.query_key_value(hidden_states))
        turned = falcon_turned(
            query.transpose(1, 2), key.transpose(1, 2), *given["position_embeddings"]
        )
        return turned[0].transpose(1, 2), turned[1].transpose(1, 2), value


def _falcon(original: nn.Module) -> Parts:
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


class _GPTJ(HandingOver):
    def made(self, hidden_states: torch.Tensor, **given: Any) -> tuple[Heads, Heads, Heads]:
        """Queries and keys of which pairs of neighbours are turned, and values."""
        query, key, value = super().made(hidden_states)
        query, key = (self._turned(heads, *given["position_embeddings"]) for heads in (query, key))
        return query, key, value

    def _turned(self, heads: Heads, sin: Turns, cos: Turns) -> Heads:
        """Heads of which the first so many numbers are turned; all if the width is None."""
        width = self.attention.rotary_dim
        turned = gptj_turned(heads[..., :width], sin, cos)
        return turned if width is None else torch.cat([turned, heads[..., width:]], dim=-1)


def _gptj(original: nn.Module) -> Parts:
    config: Any = original.config
    width = int(config.rotary_dim or config.n_embd)
    return read_parts(original, FamilyTraits(handing_over=_GPTJ, rotary=lambda base: _Turns(width)))


def _neo_attention(attention: Any) -> HandingOver:
    """Unscaled, and in every other layer to the last tokens alone."""
    window = attention.config.window_size if attention.attention_type == "local" else None
    return HandingOver(attention, scaling=1.0, sliding_window=window)


PARTS_OF = {
    "FalconForCausalLM": _falcon,
    "GPTJForCausalLM": _gptj,
    "GPTNeoForCausalLM": partial(read_parts, how=FamilyTraits(handing_over=_neo_attention)),
}
