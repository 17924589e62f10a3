"""How much memory a model's weights take."""

from __future__ import annotations

from itertools import chain

from torch import nn

from layerwise.models.decoder.packed import is_packed


def weight_bytes(model: nn.Module) -> int:
    """Bytes of all parameters of a model, and of what is kept of quantized ones."""
    # Those that are shared count once.
    packed = (module.buffers(recurse=False) for module in model.modules() if is_packed(module))
    weights = chain(model.parameters(), *packed)
    return sum(weight.numel() * weight.element_size() for weight in weights)
