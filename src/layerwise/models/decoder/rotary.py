"""Rotary embeddings as Hugging Face's module makes them, at any positions.

Source: Su et al. 2021 (arXiv:2104.09864), in whatever scaling the model has.
"""

from __future__ import annotations

import copy
import inspect
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from jaxtyping import Complex, Float, Int
from torch import nn

CosSin = tuple[Float[torch.Tensor, "batch pos _"], Float[torch.Tensor, "batch pos _"]]
# Some modules give both as one complex number.
Turns = CosSin | Complex[torch.Tensor, "batch pos _"]


@dataclass(frozen=True)
class Rotary:
    """Cosines and sines of positions, from tables that the module fills."""

    module: nn.Module  # Hugging Face's
    layer_type: str | None  # the kind of layer that it is asked for; None if all are alike
    n_ctx: int  # longest text, in tokens; tables never go beyond it
    # Cosines and sines of positions 0, 1, ... by number format and device.
    tables: dict[tuple[Any, ...], Turns] = field(default_factory=dict, repr=False, compare=False)

    def __deepcopy__(self, memo: dict[int, Any]) -> Rotary:
        return Rotary(copy.deepcopy(self.module, memo), self.layer_type, self.n_ctx)

    def at(self, positions: Int[torch.Tensor, ...], longest: int, like: torch.Tensor) -> Turns:
        """Cosines and sines of positions."""
        where = positions if positions.ndim == 2 else positions[None]
        table = self._table(longest, like)
        if isinstance(table, torch.Tensor):
            return table[0, where]
        cos, sin = table
        return cos[0, where], sin[0, where]

    def _table(self, longest: int, like: torch.Tensor) -> Turns:
        key = like.dtype, like.device
        known = self.tables.get(key)
        if known is None or _length(known) < longest:
            size = max(longest, min(self.n_ctx, 2 * longest))
            kind = () if self.layer_type is None else (self.layer_type,)
            forward: Any = self.module
            if like.is_meta:
                # Its decorators would look at positions, of which only the number is known.
                forward = partial(inspect.unwrap(type(self.module).forward), self.module)
            # Tables outlive the inference mode or the gradients that they are first asked for in.
            with torch.inference_mode(False), torch.no_grad():
                positions = torch.arange(size, device=like.device)[None]
                known = self.tables[key] = forward(
                    torch.empty(1, 1, 1, dtype=like.dtype, device=like.device), positions, *kind
                )
        return known


def _length(table: Turns) -> int:
    return (table if isinstance(table, torch.Tensor) else table[0]).shape[1]
