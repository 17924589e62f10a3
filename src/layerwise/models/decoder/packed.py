"""Linear modules whose weights stay quantized: which they are, and the numbers they stand for.

The modules are those of the library that quantized them; nothing here knows its formats.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from itertools import chain
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Shaped
from torch import nn
from transformers.pytorch_utils import Conv1D

LIBRARIES = ("bitsandbytes", "gptqmodel")
"""Packages whose modules may stand for linear ones."""
_FUSED = "support_avx512bf16_for_cpu"
_AT_ONCE = 1024  # rows
_OF_8_BITS = "Linear8bitLt"
_FLAGS = ("is_loaded_in_4bit", "is_loaded_in_8bit")
_Network = TypeVar("_Network", bound=Any)
# Scales, or whole numbers that stand for them.
Kept = Shaped[torch.Tensor, "..."]


def is_packed(module: nn.Module) -> bool:
    """True if a module is a linear one with quantized weights."""
    library = type(module).__module__.split(".")[0]
    return library in LIBRARIES and hasattr(module, "in_features")


def has_packed(module: nn.Module) -> bool:
    """True if a module, or one within it, is a linear one with quantized weights."""
    return any(map(is_packed, module.modules()))


def packed_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that hold several weights in a number, whose format says nothing, by name."""
    return {
        f"{name}.{own}": weight
        for name, module in model.named_modules()
        if is_packed(module)
        for own, weight in module.named_parameters(recurse=False)
        if own != "bias"
    }


def packed_buffers(model: nn.Module) -> Iterator[tuple[str, Kept]]:
    """Tensors that packed modules keep beside parameters, by name: scales and value tables."""
    for name, module in model.named_modules():
        if is_packed(module):
            own = dict(module.named_parameters()).keys()
            state = module.state_dict(prefix=f"{name}.", keep_vars=True)
            beside = sorted(state.keys() - {f"{name}.{own_name}" for own_name in own})
            yield from ((own_name, state[own_name]) for own_name in beside)


def use_plain_kernels(model: nn.Module) -> None:
    """Have packed weights multiplied as the numbers that they stand for."""
    # bitsandbytes would, on some processors, re-order them at the first call, and multiply in
    # bfloat16 from then on. GPTQ's modules are given compiled functions in the place of their own.
    for module in filter(is_packed, model.modules()):
        if hasattr(module, _FUSED):
            setattr(module, _FUSED, False)
        for name, value in list(vars(module).items()):
            if callable(value) and inspect.isfunction(getattr(type(module), name, None)):
                delattr(module, name)


def cast_unpacked(model: nn.Module, dtype: torch.dtype) -> None:
    """Cast all parameters that are not packed."""
    # Of quantized models transformers leaves them in that in which they are stored.
    for module in model.modules():
        if not is_packed(module):
            for weight in module.parameters(recurse=False):
                if weight.is_floating_point():
                    weight.data = weight.data.to(dtype)


def linear_weight(linear: nn.Module) -> Float[torch.Tensor, "d_in d_out"]:
    """The matrix that a linear module multiplies by from the right."""
    # Of a packed one it is what the module makes of the rows of the identity, in float32, less its
    # bias. Sums of zeros and one number are exact in any order.
    module: Any = linear
    if not is_packed(module):
        return module.weight if isinstance(module, Conv1D) else module.weight.T
    n_rows, place = module.in_features, next(chain(module.buffers(), module.parameters())).device
    bare = copy.copy(module)  # of the same tensors, but for its bias
    bare._parameters, bare._buffers = dict(module._parameters), dict(module._buffers)
    bare.bias = None
    with torch.no_grad():
        parts = torch.arange(n_rows, device=place).split(_AT_ONCE)
        rows = (nn.functional.one_hot(part, n_rows).to(torch.float32) for part in parts)
        return torch.cat([bare(some) for some in rows])


def with_packed_sizes(model: nn.Module, n_bits: int) -> None:
    """Give the linear modules of a meta model as many bytes as their quantized weights take."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            packed = torch.empty(
                module.weight.numel() * n_bits // 8, dtype=torch.uint8, device="meta"
            )
            module.weight = nn.Parameter(packed, requires_grad=False)


def dequantize_modules(model: _Network) -> _Network:
    """The model itself, each packed module replaced by a linear one of the same numbers."""
    # Those of 8 bits, of which bitsandbytes rounds the inputs too, are widened by transformers.
    if any(type(module).__name__ == _OF_8_BITS for module in model.modules()):
        model.dequantize(torch.float32)
    for name, module in list(model.named_modules()):
        if is_packed(module):
            packed: Any = module
            weight, bias = linear_weight(packed), packed.bias
            with torch.device("meta"):
                linear = nn.Linear(packed.in_features, packed.out_features, bias is not None)
            linear.weight = nn.Parameter(weight.T.contiguous(), requires_grad=False)
            if bias is not None:
                linear.bias = nn.Parameter(bias.detach().to(weight), requires_grad=False)
            model.set_submodule(name, linear.eval())
    # transformers and peft would go on treating it as quantized.
    quantizer: Any = getattr(model, "hf_quantizer", None)
    if quantizer is not None:
        quantizer.remove_quantization_config(model)
    for flag in _FLAGS:
        model.__dict__.pop(flag, None)
    return model


def weight_bytes(model: nn.Module) -> int:
    """Bytes of all parameters of a model, and of what is kept of quantized ones."""
    # Those that are shared count once.
    packed = (module.buffers(recurse=False) for module in model.modules() if is_packed(module))
    weights = chain(model.parameters(), *packed)
    return sum(weight.numel() * weight.element_size() for weight in weights)
