"""Tiny random HookedTransformers, one per kind of block that the engine must get right."""

from __future__ import annotations

import copy
import functools
from typing import Any

import torch

from layerwise.models.libraries.quiet import silence_deprecation
from tests.device import DEVICE
from tests.hooked import HookedTransformer, HookedTransformerConfig

D_VOCAB = 50
D_MODEL = 32
N_LAYERS = 4
N_HEADS = 4
D_HEAD = 8

KINDS: dict[str, dict[str, Any]] = {
    "llama-gqa": {"gated_mlp": True, "act_fn": "silu", "n_key_value_heads": 2},
    "llama-mqa": {"gated_mlp": True, "act_fn": "silu", "n_key_value_heads": 1},
    "gpt2": {
        "normalization_type": "LN",
        "positional_embedding_type": "standard",
        "rotary_dim": None,
    },
    "neox": {"normalization_type": "LN", "parallel_attn_mlp": True, "rotary_dim": 4},
    "qk-norm": {"use_qk_norm": True, "n_key_value_heads": 2},
    "attention only": {"attn_only": True},
    # Without a norm activations grow by the layer, and rounding with them: small weights.
    "no norm": {"normalization_type": None, "initializer_range": 0.12},
    "alibi": {"positional_embedding_type": "alibi", "rotary_dim": None},
    "sliding window": {
        "use_local_attn": True,
        "window_size": 5,
        "attn_types": ["local", "global"] * 2,
    },
    "soft-caps": {"attn_scores_soft_cap": 5.0, "output_logits_soft_cap": 3.0},
}
PACKED = [kind for kind in KINDS if kind not in ("alibi", "sliding window", "soft-caps")]


def new_model(kind: str) -> HookedTransformer:
    """A copy of ``random_model`` that may be changed."""
    return copy.deepcopy(random_model(kind))


@functools.cache
def random_model(kind: str, loud: float = 1.0) -> HookedTransformer:
    """A model whose biases and norm weights are random too, so that none can be forgotten.

    ``loud`` is a factor of what each sublayer writes. With little the next token hangs on the last
    one most of all, so that texts repeat themselves and stay much the same under changes.
    """
    config: dict[str, Any] = {
        "n_layers": N_LAYERS,
        "d_model": D_MODEL,
        "n_ctx": 64,
        "d_head": D_HEAD,
        "n_heads": N_HEADS,
        "d_mlp": 64,
        "d_vocab": D_VOCAB,
        "act_fn": "gelu",
        "normalization_type": "RMS",
        "positional_embedding_type": "rotary",
        "rotary_dim": 8,
        "device": "cpu",
        "initializer_range": 0.3,
        "seed": 0,
    } | KINDS[kind]
    with silence_deprecation("HookedTransformer"):
        model = HookedTransformer(HookedTransformerConfig(**config)).eval()
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        last = name.rsplit(".", 1)[-1]
        if last.startswith(("b_", "_b_")):
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
        elif last == "w":
            parameter.data = 1 + torch.randn(parameter.shape, generator=generator) * 0.3
        if last in ("W_O", "W_out", "b_O", "b_out"):
            parameter.data = parameter.data * loud
    if DEVICE != "cpu":
        model.to(DEVICE, print_details=False)
    return model


def amplifying_model() -> HookedTransformer:
    """A model whose logits are so large that rounding grows above 1e-3 nats."""
    model = copy.deepcopy(random_model("llama-gqa"))
    model.unembed.W_U.data *= 200
    return model
