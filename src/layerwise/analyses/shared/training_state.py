"""State of an interrupted training, as bytes: its progress, weights and optimizer."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import torch


def packed_state(
    progress: Any, weights: Sequence[torch.Tensor], optimizer: torch.optim.Optimizer
) -> bytes:
    """The state of a training."""
    buffer, kept = io.BytesIO(), [weight.detach() for weight in weights]
    torch.save((progress, kept, optimizer.state_dict()), buffer)
    return buffer.getvalue()


@torch.no_grad()
def unpack_state(
    state: bytes, weights: Sequence[torch.Tensor], optimizer: torch.optim.Optimizer
) -> Any:
    """Put a state's weights and optimizer in place; its progress."""
    progress, kept, of_optimizer = torch.load(
        io.BytesIO(state), map_location="cpu", weights_only=True
    )
    for weight, value in zip(weights, kept, strict=True):
        weight.copy_(value)
    optimizer.load_state_dict(of_optimizer)
    return progress
