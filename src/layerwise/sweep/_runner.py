"""What the engine asks of a block: packed tokens through it, or one new token per row.

The two ways of doing it are in ``packed_block`` and ``hooked_block``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int

from ._edits import NO_EDITS, Activation, LayerEdits
from .layout import KeysValues, Layout

Observe = Callable[[str, Activation], None]
Cache = KeysValues  # [row, position, kv_head, d_head], preallocated


@runtime_checkable
class BlockRunner(Protocol):
    """One block of a model, for packed tokens and for one decoding step."""

    exact: bool
    group: int

    def packed(
        self,
        resid: Activation,
        layout: Layout,
        outside: KeysValues | None = None,
        edits: LayerEdits = NO_EDITS,
        observe: Observe | None = None,
    ) -> tuple[Activation, KeysValues | None]:
        """Push packed tokens through; keys and values are None if nobody computed them."""
        ...

    def step(
        self,
        resid: Float[torch.Tensor, "row d_model"],
        positions: Int[torch.Tensor, " row"],
        cache: Cache,
        edits: LayerEdits = NO_EDITS,
    ) -> Float[torch.Tensor, "row d_model"]:
        """Push one new token per row through, and write its keys and values to the cache."""
        ...
