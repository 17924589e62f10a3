"""Rounding: a network in float64, and the same with weights disturbed in their last bit.

What is done with it is decided where models are compared: with their originals at load
(``models.conversion``), and under changes (``sweep.checks``).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from torch.overrides import TorchFunctionMode

from layerwise.models.decoder.packed import packed_weights

MULTIPLE = 4
"""So many times the error of plain forwards is taken for rounding still."""

DRAWS = 3
"""Number of forwards with disturbed weights, beside the one without."""

Network = TypeVar("Network", bound=torch.nn.Module)


def disturbances(model: Network, seed: int = 0) -> Iterator[Network]:
    """``DRAWS`` copies, one after the other, see ``perturb_weights``."""
    return (perturb_weights(model, seed + draw) for draw in range(DRAWS))


@torch.no_grad()
def perturb_weights(model: Network, seed: int) -> Network:
    """A copy with each weight moved to the next larger or smaller number of its format."""
    # What rounded arithmetic gives is what exact arithmetic gives for weights that are some last
    # bits away. So what such copies say differs as much as rounding makes it, whatever the order of
    # sums on this processor.
    moved, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    exact = set(map(id, packed_weights(moved).values()))
    for weight in moved.parameters():
        if id(weight) in exact:
            continue
        up = torch.rand(weight.shape, generator=generator).to(weight.device) < 0.5
        neighbour = torch.nextafter(weight, torch.where(up, math.inf, -math.inf).to(weight))
        weight.copy_(torch.where(weight == 0, weight, neighbour))
    return moved


class StayFloat64(TorchFunctionMode):
    """Keeps float64 tensors from being narrowed to float32 within the context."""

    # Norms, softmaxes and the like of Hugging Face models compute in float32 by name. What they
    # make of integers, such as the bucket of a distance, stays in float32, so that no bucket
    # changes.

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Call ``func`` with float64 in the place of float32, if it is given float64."""
        kwargs = kwargs or {}
        if any(isinstance(arg, torch.Tensor) and arg.dtype == torch.float64 for arg in args):
            if func is torch.Tensor.float:
                return args[0]
            # The first may be what is written to.
            args = (args[0], *map(_wide, args[1:]))
            kwargs = {name: _wide(kwarg) for name, kwarg in kwargs.items()}
        return func(*args, **kwargs)


def _wide(value: Any) -> Any:
    if isinstance(value, torch.Tensor) and value.dtype == torch.float32:
        return value.double()
    return torch.float64 if value is torch.float32 else value
