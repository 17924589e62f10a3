"""Tiny random models of every kind of norm, cap and block that a direct path can run through."""

from __future__ import annotations

import functools
from typing import Any
from unittest import mock

from tests.hooked import HookedTransformer
from tests.sweep import models

_MORE: dict[str, dict[str, Any]] = {
    "gemma 2": {
        "use_normalization_before_and_after": True,
        "attn_scores_soft_cap": 5.0,
        "output_logits_soft_cap": 3.0,
        "n_key_value_heads": 2,
    },
    "olmo 2": {"original_architecture": "Olmo2ForCausalLM"},
    "folded": {"normalization_type": "LNPre"},
    "folded rms": {"normalization_type": "RMSPre"},
}
KINDS = [*models.KINDS, *_MORE]


@functools.cache
def model_of(kind: str) -> HookedTransformer:
    """One of ``KINDS``; do not change its weights."""
    with mock.patch.dict(models.KINDS, _MORE):
        return models.random_model(kind)
