"""Queries, keys and values of an attention module of Hugging Face, whatever makes them.

The module is called, and an attention function of ours, registered with transformers, takes what it
is given before anything attends.
"""

from __future__ import annotations

import sys
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from layerwise.errors import UserError, short_repr

IMPLEMENTATION = "layerwise"
"""The name under which the attention function is registered."""

Heads = Float[torch.Tensor, "batch pos _ _"]


@dataclass(frozen=True)
class QueriesKeysValues:
    """Queries, keys and values that an attention module passes to its attention function."""

    queries: Heads  # rotated and normed as the module does it
    keys: Heads  # the same
    values: Heads
    options: dict[str, Any]  # the other arguments, such as ``scaling``


class _CaptureStop(Exception):
    """Carries captured tensors out of a module's forward."""

    def __init__(self, taken: QueriesKeysValues) -> None:
        super().__init__("queries, keys and values were taken")
        self.taken = taken


_TAKING: ContextVar[bool] = ContextVar("taking", default=False)


def attend(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,
) -> Any:
    """The family's own attention, but where ``capture_qkv`` asks for what goes into it."""
    if _TAKING.get():
        q, k, v = (x.transpose(1, 2) for x in (query, key, value))
        raise _CaptureStop(QueriesKeysValues(q, k, v, options))
    own = vars(sys.modules[type(module).__module__])["eager_attention_forward"]
    return own(module, query, key, value, attention_mask, **options)


def capture_qkv(
    module: nn.Module, x: Float[torch.Tensor, "batch pos d_model"], **given: Any
) -> QueriesKeysValues | None:
    """Capture the queries, keys and values that an attention module computes."""
    config = getattr(module, "config", None)
    chosen = getattr(config, "_attn_implementation", IMPLEMENTATION)
    if chosen != IMPLEMENTATION:
        raise UserError(
            f"The model's attention implementation was changed to {short_repr(chosen)} "
            f"after loading: "
            f"expected {IMPLEMENTATION!r}, which is how queries and keys are had from its modules; "
            f"call model.original.set_attn_implementation({IMPLEMENTATION!r}), or load it again."
        )
    token = _TAKING.set(True)
    try:
        module(hidden_states=x, attention_mask=None, **given)
    except _CaptureStop as stopped:
        return stopped.taken
    finally:
        _TAKING.reset(token)
    return None


AttentionInterface.register(IMPLEMENTATION, attend)
AttentionMaskInterface.register(IMPLEMENTATION, eager_mask)
