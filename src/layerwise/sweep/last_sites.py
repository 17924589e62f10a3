"""What the parts of the intact model write at each prompt's last position, out of one walk.

Nothing is changed here, and what is written is not read further.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from jaxtyping import Float
from transformer_lens import HookedTransformer

from ..models.offload import blocks_on_disk
from .intact_layers import intact_layers
from .plan import DEFAULT_MEMORY_BUDGET
from .requests import Tokens


@dataclass(frozen=True)
class LastSites:
    """All that is added up to the final residual stream at each context's last position.

    Attributes:
        embedding: what enters the first block.
        z: each head's output before the output projection.
        attn_out: what attention adds to the residual stream.
        mlp_out: what the MLP adds; zeros in a model without MLPs.
        final: the residual stream that leaves the last block.
    """

    embedding: Float[torch.Tensor, "context d_model"]
    z: Float[torch.Tensor, "layer context head d_head"]
    attn_out: Float[torch.Tensor, "layer context d_model"]
    mlp_out: Float[torch.Tensor, "layer context d_model"]
    final: Float[torch.Tensor, "context d_model"]


@torch.inference_mode()
def last_sites(
    model: HookedTransformer,
    contexts: Sequence[Tokens],
    *,
    memory_budget: int = DEFAULT_MEMORY_BUDGET,
) -> LastSites:
    """Read what every part of the intact model writes at each context's last position.

    Args:
        model: the model.
        contexts: token ids, at least one each.
        memory_budget: bytes for activations on their way; what is returned comes on top.
    """
    cfg, count = model.cfg, len(contexts)
    empty, wide = model.W_E.new_empty, (cfg.n_layers, count, cfg.d_model)
    found = LastSites(
        empty(count, cfg.d_model), empty(cfg.n_layers, count, cfg.n_heads, cfg.d_head),
        empty(wide), model.W_E.new_zeros(wide), empty(count, cfg.d_model),
    )  # fmt: skip
    for one in chain.from_iterable(intact_layers(model, contexts, memory_budget)):
        here, last = list(one.texts), [path[-1] for path in one.paths]
        if one.first:
            found.embedding[here] = one.seen["resid_pre"][0, last]
        for site in ("z", "attn_out", "mlp_out"):
            if site in one.seen:
                getattr(found, site)[one.layer, here] = one.seen[site][0, last]
        if one.layer == cfg.n_layers - 1:
            found.final[here] = one.seen["resid_post"][0, last]
    return found


@contextmanager
def held_block(model: HookedTransformer, layer: int) -> Iterator[Any]:
    """A block of the model, with its weights in memory meanwhile if they are on disk."""
    on_disk = blocks_on_disk(model)
    if on_disk is not None:
        on_disk.hold(layer)
    try:
        yield model.blocks[layer]
    finally:
        if on_disk is not None:
            on_disk.drop(layer)
