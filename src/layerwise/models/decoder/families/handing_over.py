"""Modules that families share: attention up to where it attends, and MLPs of two products."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import nn

from layerwise.models.decoder.capture import Heads, attend

_LOW = 256


class HandingOver(nn.Module):
    """An attention module whose ``forward`` is called as those that use transformers' interface."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.attention: Any = attention  # the original's


class WithProjections(HandingOver):
    """One whose queries, keys and values are a product each."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__(attention)
        # q_proj: makes queries.
        # k_proj: makes keys.
        # v_proj: makes values.
        self.q_proj, self.k_proj, self.v_proj = (
            self.attention.get_submodule(name) for name in ("q_proj", "k_proj", "v_proj")
        )

    def made(self, hidden_states: torch.Tensor) -> tuple[Heads, Heads, Heads]:
        """Queries, keys and values, by head."""
        width = self.attention.head_dim
        query, key, value = (
            make(hidden_states).unflatten(-1, (-1, width))
            for make in (self.q_proj, self.k_proj, self.v_proj)
        )
        return query, key, value


class WithSlopes(HandingOver, ABC):
    """One in which scores grow with a key's position, by a slope for each head (ALiBi)."""

    # What is added is a product, and so more dimensions of queries and keys, written such that
    # little but a key's distance is left to be rounded in a narrow number format: a position is two
    # numbers below 256, which are exact, and what depends on the query alone changes no pattern.
    # Source: Press et al. 2021 (arXiv:2108.12409), section 3.

    slopes: list[float]  # how much a score grows from a key to the next, by head
    scaling: float  # what scores are multiplied by

    @abstractmethod
    def made(self, hidden_states: torch.Tensor) -> tuple[Heads, Heads, Heads]:
        """Queries, keys and values, by head, as many of each."""

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None,
        position_ids: Int[torch.Tensor, "rows pos"],
        **given: Any,
    ) -> Any:
        """As attention modules that use transformers' attention interface; see ``capture``."""
        query, key, value = (heads.transpose(1, 2) for heads in self.made(hidden_states))
        places = position_ids[:, None].expand(*query.shape[:-1])
        slopes = torch.tensor(self.slopes, device=query.device)[:, None] / self.scaling
        grown = slopes.expand(places.shape)
        beside_query = torch.stack([_LOW * grown, grown, -grown * places], dim=-1)
        beside_key = torch.stack([places // _LOW, places % _LOW, torch.ones_like(places)], dim=-1)
        query = torch.cat([query, beside_query.to(query)], dim=-1)
        key = torch.cat([key, beside_key.to(key)], dim=-1)
        return attend(self, query, key, value, attention_mask, scaling=self.scaling)


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
