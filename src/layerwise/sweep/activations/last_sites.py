"""What the parts of the intact model write at each prompt's last position, out of one walk.

Nothing is changed here, and what is written is not read further.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float

from layerwise.models.instance.kinds import DecoderOnly
from layerwise.models.weights.offload import blocks_on_disk
from layerwise.sweep.plans.plan import DEFAULT_MEMORY_BUDGET
from layerwise.sweep.requests import Tokens

from .intact_layers import IntactLayer, intact_layers


@dataclass(frozen=True)
class StackSites:
    """All terms of the final residual stream of one stack, at some tokens."""

    embedding: Float[torch.Tensor, "row d_model"]  # what enters the first block
    # Each head's output before the output projection.
    z: Float[torch.Tensor, "layer row head d_head"]
    attn_out: Float[torch.Tensor, "layer row d_model"]  # what attention adds to the residual stream
    # What the MLP adds; zeros in a model without MLPs.
    mlp_out: Float[torch.Tensor, "layer row d_model"]
    final: Float[torch.Tensor, "row d_model"]  # the residual stream that leaves the last block

    @classmethod
    def empty(cls, like: torch.Tensor, n_rows: int, n_layers: int, *head: int) -> StackSites:
        """Empty tensors for some tokens."""
        width = like.shape[-1]
        return cls(
            like.new_empty(n_rows, width), like.new_empty(n_layers, n_rows, *head),
            like.new_empty(n_layers, n_rows, width), like.new_zeros(n_layers, n_rows, width),
            like.new_empty(n_rows, width),
        )  # fmt: skip

    def take(self, walked: IntactLayer, layer: int, rows: list[int], tokens: list[int]) -> None:
        """Store the terms of one layer of the stack (from 0) at some tokens of its walk."""
        if walked.first:
            self.embedding[rows] = walked.seen["resid_pre"][0, tokens]
        for site in ("z", "attn_out", "mlp_out"):
            if site in walked.seen:
                getattr(self, site)[layer, rows] = walked.seen[site][0, tokens]
        if layer == len(self.z) - 1:
            self.final[rows] = walked.seen["resid_post"][0, tokens]


@torch.inference_mode()
def last_sites(
    model: DecoderOnly,
    contexts: Sequence[Tokens],
    *,
    memory_budget: int = DEFAULT_MEMORY_BUDGET,
) -> StackSites:
    """Read what every part of the intact model writes at each context's last position."""
    cfg = model.cfg
    sites = StackSites.empty(model.W_E, len(contexts), cfg.n_layers, cfg.n_heads, cfg.d_head)
    for intact_layer in intact_layers(model, contexts, memory_budget):
        sites.take(
            intact_layer,
            intact_layer.layer,
            list(intact_layer.texts),
            [path[-1] for path in intact_layer.paths],
        )
    return sites


@contextmanager
def loaded_block(model: DecoderOnly, layer: int) -> Iterator[Any]:
    """A block of the model, with its weights in memory meanwhile if they are on disk."""
    on_disk = blocks_on_disk(model)
    if on_disk is not None:
        on_disk.hold(layer)
    try:
        yield model.blocks[layer]
    finally:
        if on_disk is not None:
            on_disk.drop(layer)
