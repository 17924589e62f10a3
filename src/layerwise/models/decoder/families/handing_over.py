"""Attention modules that attend themselves, up to where they do; what families share of that.

What takes queries, keys and values from there is told in ``capture``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..capture import Heads


class HandingOver(nn.Module):
    """An attention module whose ``forward`` is called as those that use transformers' interface.

    Attributes:
        attention: the original's.
    """

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.attention: Any = attention


class WithProjections(HandingOver):
    """One whose queries, keys and values are a product each.

    Attributes:
        q_proj: makes queries.
        k_proj: makes keys.
        v_proj: makes values.
    """

    def __init__(self, attention: nn.Module) -> None:
        super().__init__(attention)
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
