"""A few blocks of a model's shape without its weights, to measure how fast such blocks are.

What is measured is in ``calibration``. Knows shapes only.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from math import ceil

import torch
from transformer_lens import HookedTransformer

from ..models.quiet import no_deprecation_of
from ..models.strides import restride
from .memory import free_memory

# As many blocks as together are larger than a processor's caches, so that weights come from
# memory as they do in a sweep.
LARGER_THAN_CACHES = 2**27
MOST_BLOCKS = 8


def stand_in(outline: HookedTransformer, device: str) -> HookedTransformer | None:
    """A model of an outline's shape with fewer blocks, and one number for all weights.

    Args:
        outline: a model whose parameters need have no values.
        device: where the stand-in is to be.

    Returns:
        The stand-in; None where it would take more than half of the free memory.
    """
    of_block = size_of(outline.blocks[0])
    n_blocks = enough_blocks(of_block, outline.cfg.n_layers)
    rest = size_of(outline) - sum(map(size_of, outline.blocks))
    if n_blocks * of_block + rest > free_memory(device) // 2:
        return None
    cfg = copy.deepcopy(outline.cfg)
    cfg.n_layers, cfg.init_weights, cfg.device = n_blocks, False, device
    with no_deprecation_of("HookedTransformer"), torch.device(device):
        model = HookedTransformer(cfg).eval()
    fill(model.parameters())
    restride(model)
    return model


def enough_blocks(of_block: int, n_layers: int) -> int:
    """How many blocks of so many bytes are timed, of a stack that has ``n_layers``."""
    return min(ceil(LARGER_THAN_CACHES / of_block), MOST_BLOCKS, n_layers)


def fill(weights: Iterable[torch.Tensor]) -> None:
    """Give weights values, in memory that is theirs."""
    for weight in weights:
        # Not zeros: memory that was never written to is one page, and faster than any real one.
        weight.data.fill_(0.01 if weight.is_floating_point() else 0)


def size_of(module: torch.nn.Module) -> int:
    """Bytes of a module's parameters."""
    return sum(p.numel() * p.element_size() for p in module.parameters())
