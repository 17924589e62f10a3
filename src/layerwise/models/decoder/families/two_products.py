"""An MLP of two products, for layers that have no module of its own for it, or one that adds."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import nn


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
