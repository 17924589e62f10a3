"""A few blocks of a model's shape without its weights, to measure how fast such blocks are.

What is measured is in ``calibration``. Knows shapes only.
"""

from __future__ import annotations

import copy
from math import ceil

import torch
from transformer_lens import HookedTransformer

from ..models.quiet import no_deprecation_of_hooked_transformer
from ..models.strides import restride
from .memory import free_memory

# As many blocks as together are larger than a processor's caches, so that weights come from
# memory as they do in a sweep.
_LARGER_THAN_CACHES = 2**27
_MOST_BLOCKS = 8


def stand_in(outline: HookedTransformer, device: str) -> HookedTransformer | None:
    """A model of an outline's shape with fewer blocks, and one number for all weights.

    Args:
        outline: a model whose parameters need have no values.
        device: where the stand-in is to be.

    Returns:
        The stand-in; None where it would take more than half of the free memory.
    """
    of_block = _bytes(outline.blocks[0])
    n_blocks = min(ceil(_LARGER_THAN_CACHES / of_block), _MOST_BLOCKS, outline.cfg.n_layers)
    rest = _bytes(outline) - sum(map(_bytes, outline.blocks))
    if n_blocks * of_block + rest > free_memory(device) // 2:
        return None
    cfg = copy.deepcopy(outline.cfg)
    cfg.n_layers, cfg.init_weights, cfg.device = n_blocks, False, device
    with no_deprecation_of_hooked_transformer(), torch.device(device):
        model = HookedTransformer(cfg).eval()
    for parameter in model.parameters():
        # Not zeros: memory that was never written to is one page, and faster than any real one.
        parameter.data.fill_(0.01)
    restride(model)
    return model


def _bytes(module: torch.nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in module.parameters())
