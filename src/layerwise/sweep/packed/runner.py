"""What the engine asks of a block: packed tokens through it, or a few new tokens per row.

The two ways of doing it are in ``packed_block`` and ``hooked_block``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int

from layerwise.sweep.changes.layer_edits import NO_EDITS, Activation, LayerEdits, Observe, OfLayout

from .layout import KeysValues, Layout


@dataclass(frozen=True)
class KeptKeysValues:
    """A cache of keys and values, heads before tokens, so that slices are views."""

    # Of each source (a branch, or a row that is decoded) and token.
    keys: Float[torch.Tensor, "source kv_head token d_head"]
    values: Float[torch.Tensor, "source kv_head token d_head"]  # the same

    @classmethod
    def empty(cls, sources: int, tokens: int, cfg: Any, like: torch.Tensor) -> KeptKeysValues:
        """An empty cache for so many sources and tokens."""
        # Zeros: keys that are masked still enter the products, and NaN times zero is NaN.
        shape = (sources, cfg.n_key_value_heads or cfg.n_heads, tokens, cfg.d_head)
        return cls(like.new_zeros(shape), like.new_zeros(shape))

    def put(
        self,
        sources: Sequence[int],
        own: KeysValues,
        tokens: Int[torch.Tensor, " token"] | None = None,
    ) -> None:
        """Keep the keys and values of some sources, at all tokens or at some."""
        if tokens is None:
            self.keys[sources] = own.keys.transpose(1, 2)
            self.values[sources] = own.values.transpose(1, 2)
            return
        of_sources = torch.tensor(sources, device=tokens.device)[:, None]
        self.keys[of_sources, :, tokens] = own.keys
        self.values[of_sources, :, tokens] = own.values


@dataclass(frozen=True)
class SharedKeys:
    """Keys and values of a prompt's beginning that several rows attend to, without copies."""

    # A view of what the walk kept, for the sources in use.
    keys: Float[torch.Tensor, "source kv_head shared d_head"]
    values: Float[torch.Tensor, "source kv_head shared d_head"]  # the same
    # The rows that attend to each source; padding repeats the first.
    rows: Int[torch.Tensor, "source slot"]
    # For each row, its place in ``rows`` when that is laid out flat.
    place: Int[torch.Tensor, " attending"]
    attending: Int[torch.Tensor, " attending"]  # the rows that ``place`` is about, in order


@dataclass(frozen=True)
class StepLayout:
    """Positions and attended keys of the new tokens of some rows."""

    positions: Int[torch.Tensor, "row new"]  # in their sequences
    longest: int  # one more than the largest position
    # Where their keys and values go in the cache: their position among the row's own.
    index: Int[torch.Tensor, "row new"]
    n_own: int  # one more than the largest index
    slots: Int[torch.Tensor, " row"]  # the rows' places in the cache
    span: slice | None  # the part of the cache that holds these places, where it holds few others
    own: KeptKeysValues  # the cache of each row's own keys and values
    # Beginnings of prompts that are not in the cache, each for other rows.
    shared: tuple[SharedKeys, ...] = ()


@runtime_checkable
class BlockRunner(Protocol):
    """One block of a model, for packed tokens and for decoding steps."""

    exact: bool  # whether rectangles must be without padding
    # Whether it can leave out tokens that need not leave the block, start from sites, decode
    # several new tokens at once and attend to shared beginnings.
    in_parts: bool

    def packed(
        self,
        resid: Activation,
        layout: Layout,
        outside: KeysValues | None = None,
        edits: LayerEdits = NO_EDITS,
        observe: Observe | None = None,
        overwrite: bool = False,
    ) -> tuple[Float[torch.Tensor, "group output d_model"], KeysValues | None]:
        """Push packed tokens through; keys and values are None if nobody computed them."""
        # With ``overwrite`` the result may be written in the place of ``resid``.
        ...

    def packed_several(
        self, parts: Sequence[tuple[OfLayout, Layout]], outside: KeysValues | None
    ) -> list[OfLayout]:
        """Push tokens of several layouts through at once, without changes."""
        ...

    def from_sites(
        self, resid_pre: Activation, sites: Mapping[str, torch.Tensor], edits: LayerEdits
    ) -> Activation:
        """What leaves the block, given its unchanged sites and changes after its attention."""
        ...

    def step(
        self,
        resid: Float[torch.Tensor, "row new d_model"],
        layout: StepLayout,
        edits: LayerEdits = NO_EDITS,
    ) -> tuple[Float[torch.Tensor, "row new d_model"], KeysValues | None]:
        """Push new tokens through; their keys and values go to the cache and are returned."""
        ...
