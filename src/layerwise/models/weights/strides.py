"""Parameters stored the way TransformerLens's forward pass wants them.

Its blocks transpose and copy weights at every pass; stored in the wanted order, the copies
become views. Values, shapes and names stay as they are.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Shaped
from torch import nn

from layerwise.models.libraries.hooked import (
    AbstractAttention,
    GatedMLP,
    HookedTransformer,
    Unembed,
)

Weight = Float[torch.Tensor, "..."]
# Quantized ones are whole numbers.
Stored = Shaped[torch.Tensor, "..."]


def restride(model: HookedTransformer) -> None:
    """Store the weights of ``model`` in the order in which its forward pass reads them.

    ``W_in``, ``W_gate``, ``W_out`` of a gated MLP and ``W_U`` of shape ``[a, b]`` are stored
    as ``[b, a]``; ``W_Q``, ``W_K``, ``W_V`` of shape ``[head, d_model, d_head]`` as
    ``[head, d_head, d_model]``; ``W_O`` of shape ``[head, d_head, d_model]`` as
    ``[d_model, head, d_head]``. Logits are bit for bit the same, since the same numbers reach
    the same kernels in the same order. Where nothing is copied, nothing is done: an MLP that is
    not gated, and ``W_Q``, ``W_K``, ``W_V`` of a single head. Doing it twice changes nothing.
    """
    for module in model.modules():
        for name, order in _weight_orders(module).items():
            parameter = getattr(module, name)
            # Packed quantized weights are opaque bytes.
            if parameter.is_floating_point():
                parameter.data = _permute_storage(parameter.data, order)


def _weight_orders(module: nn.Module) -> dict[str, tuple[int, ...]]:
    if isinstance(module, Unembed):
        return {"W_U": (1, 0)}
    if isinstance(module, GatedMLP):
        return dict.fromkeys(("W_in", "W_gate", "W_out"), (1, 0))
    if isinstance(module, AbstractAttention):
        # Under grouped-query attention W_K is a property that expands the parameter _W_K.
        own = dict(module.named_parameters(recurse=False))
        into_heads = [name for name in ("W_Q", "W_K", "W_V", "_W_K", "_W_V") if name in own]
        several = [name for name in into_heads if own[name].shape[0] > 1]
        return dict.fromkeys(several, (0, 2, 1)) | {"W_O": (2, 0, 1)}
    return {}


def _permute_storage(weight: Weight, order: tuple[int, ...]) -> Weight:
    back = sorted(range(len(order)), key=order.__getitem__)
    return weight.permute(order).contiguous().permute(back)


def storage_order(weight: Weight) -> tuple[int, ...]:
    """The dimensions of a weight, from the outermost in memory to the innermost."""
    return tuple(sorted(range(weight.ndim), key=weight.stride, reverse=True))
