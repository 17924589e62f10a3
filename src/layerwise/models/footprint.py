"""How much memory a model's weights take."""

from __future__ import annotations

from torch import nn


def weight_bytes(model: nn.Module) -> int:
    """Bytes of all parameters of a model; those that are shared count once.

    Args:
        model: the model, or its outline.
    """
    return sum(weight.numel() * weight.element_size() for weight in model.parameters())
