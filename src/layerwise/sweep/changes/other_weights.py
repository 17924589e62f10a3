"""Weights that stand in the place of some of a model's: in place for a moment, or in a twin.

A twin of a block is made of modules of its own around the same tensors, but for those that differ;
so a model and its twins share all weights that they have in common.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, is_dataclass
from typing import Any, TypeVar

import torch
from torch import nn

_T = TypeVar("_T")


@dataclass(frozen=True, eq=False)
class OtherWeights:
    """Replacement tensors for some of a model's weights."""

    # By parameter of the model what gives the tensor in its place, asked when it is needed; another
    # model's own memory, or a tensor that is made anew.
    made: Mapping[nn.Parameter, Callable[[], torch.Tensor]]
    copied_bytes: int = 0  # memory of those that are made anew

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Put these weights into the model within the context; restore its own afterwards."""
        own = {weight: weight.data for weight in self.made}
        try:
            for weight, make in self.made.items():
                weight.data = make()
            yield
        finally:
            for weight, before in own.items():
                weight.data = before

    def twin(self, block: _T) -> _T:
        """A copy of a block, or of its parts, with these weights in place of its own."""
        memo: dict[int, Any] = {}
        for module in _modules_in(block):
            kept = [*module.parameters(), *module.buffers()]
            settings = [m.__dict__.get(name) for m in module.modules() for name in _SETTINGS]
            memo |= {id(name): name for name in (*kept, *settings) if name is not None}
            for weight in module.parameters():
                if weight in self.made:
                    memo[id(weight)] = nn.Parameter(self.made[weight](), requires_grad=False)
        return copy.deepcopy(block, memo)


_SETTINGS = ("cfg", "config")


def _modules_in(block: Any) -> Iterator[nn.Module]:
    """The modules of a block: itself and those of its parts, or those that its fields hold."""
    if isinstance(block, nn.Module):
        yield block
        yield from _modules_in(getattr(block, "parts", None))
    elif is_dataclass(block):
        for value in vars(block).values():
            yield from _modules_in(value)


def in_place(weights: OtherWeights | None) -> contextlib.AbstractContextManager[None]:
    """As ``OtherWeights.in_place``; with None the model stays as it is."""
    return contextlib.nullcontext() if weights is None else weights.in_place()
