"""Contributions of a model's parts to its logits, against plain sums over cached activations."""

from __future__ import annotations

import functools
from typing import Any
from unittest import mock

import pytest
import torch
from torch import nn

from layerwise.analyses.shared.decompose.decoder import (
    before_norm,
    direct,
    read_differences,
    secant_slopes,
)
from layerwise.errors import UserError
from layerwise.sweep.activations.sites import last_sites
from layerwise.sweep.walk.readout import uncapped_logits
from tests.hooked import HookedTransformer
from tests.sweep import models
from tests.sweep.models import D_VOCAB, N_HEADS, N_LAYERS

CONTEXTS = ((1, 7, 3, 9, 4), (1, 7, 3, 8), (5, 6, 2, 11, 30, 12, 44))
ANSWERS = torch.tensor([2, 13, 40])
# A difference to one token, one to the mean of two, and one to all tokens.
WEIGHTS = torch.zeros(3, 3, D_VOCAB, dtype=torch.float64)
WEIGHTS[:, 0, 17] = 1
WEIGHTS[:, 1, [3, 21]] = 0.5
WEIGHTS[:, 2] = torch.rand(3, D_VOCAB, generator=torch.Generator().manual_seed(0)).double() / 25


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
def kind_model(kind: str) -> HookedTransformer:
    """One of ``KINDS``; do not change its weights."""
    with mock.patch.dict(models.KINDS, _MORE):
        return models.random_model(kind)


@pytest.fixture(params=KINDS)
def model(request):
    return kind_model(request.param)


@torch.inference_mode()
def direct_parts(model):
    sites = last_sites(model, CONTEXTS)
    logits = uncapped_logits(model, sites.final).double()
    reading = read_differences(model, logits, ANSWERS, WEIGHTS)
    return direct(model, sites, reading), reading


@torch.inference_mode()
def run_and_cache(model, context):
    logits, cache = model.run_with_cache(torch.tensor([context]))
    return logits[0, -1].double(), {name: value[0] for name, value in cache.items()}


def norm_by_hand(norm, x: torch.Tensor, part: torch.Tensor, scale=None) -> torch.Tensor:
    """Part of ``x`` behind a norm whose scale is that of ``x``; without its bias."""
    if isinstance(norm, nn.Identity) or norm is None:
        return part
    if "Layer" in type(norm).__name__:
        x, part = x - x.mean(), part - part.mean()
    scale = (x.pow(2).mean() + norm.eps).sqrt() if scale is None else scale
    part = part / scale
    return part * norm.w.double() if hasattr(norm, "w") else part


def weighted_differences(
    model, logits: torch.Tensor, read: torch.Tensor, index: int
) -> torch.Tensor:
    """Weighted differences of some part's logits, each with the ratio capped to uncapped."""
    uncapped, cap = logits, model.cfg.output_logits_soft_cap
    if cap is not None and cap > 0:
        uncapped = cap * torch.atanh(logits / cap)
    answer = ANSWERS[index]
    ratio = (logits[answer] - logits) / (uncapped[answer] - uncapped)
    ratio[answer] = 0
    return (WEIGHTS[index] * ratio * (read[answer] - read)).sum(-1)


def by_hand(model, index: int, part: torch.Tensor, seen, logits) -> torch.Tensor:
    final = seen[f"blocks.{N_LAYERS - 1}.hook_resid_post"][-1].double()
    norm = model.ln_final if model.cfg.normalization_type else None
    read = norm_by_hand(norm, final, part.double()) @ model.W_U.double()
    return weighted_differences(model, logits, read, index)


def after_attention(model, block):
    if model.cfg.original_architecture == "Olmo2ForCausalLM":
        return block.ln1
    return block.ln1_post if model.cfg.use_normalization_before_and_after else None


@pytest.mark.long(
    but=["llama-gqa", "gpt2", "attention only", "no norm", "alibi", "gemma 2", "folded rms"]
)
def test_parts_sum_to_the_differences_of_the_models_own_logits(model):
    parts, reading = direct_parts(model)
    for index, context in enumerate(CONTEXTS):
        logits, _ = run_and_cache(model, context)
        expected = (WEIGHTS[index] * (logits[ANSWERS[index]] - logits)).sum(-1)
        torch.testing.assert_close(reading.value[index], expected, atol=1e-4, rtol=0)
        torch.testing.assert_close(parts.total[index], expected, atol=1e-4, rtol=0)
    own = parts.own
    heads = own["z"].sum(-1) + own["attn_bias"]
    torch.testing.assert_close(heads, own["attn_out"], atol=1e-4, rtol=0)


def test_every_part_is_what_it_wrote_read_through_the_final_norm(model):
    parts, _ = direct_parts(model)
    for index, context in enumerate(CONTEXTS):
        logits, seen = run_and_cache(model, context)
        expected = by_hand(model, index, seen["blocks.0.hook_resid_pre"][-1], seen, logits)
        close(parts.own["embedding"][index], expected)
        for layer in range(N_LAYERS):
            for site in ("attn_out", "mlp_out"):
                if f"blocks.{layer}.hook_{site}" in seen:
                    wrote = seen[f"blocks.{layer}.hook_{site}"][-1]
                    found = parts.own[site][index, :, layer]
                    close(found, by_hand(model, index, wrote, seen, logits))


def test_heads_are_their_own_rows_of_the_output_projection(model):
    parts, _ = direct_parts(model)
    logits, seen = run_and_cache(model, CONTEXTS[0])
    for layer in range(N_LAYERS):
        attn = model.blocks[layer].attn
        z = seen[f"blocks.{layer}.attn.hook_z"][-1].double()
        wrote = [z[head] @ attn.W_O[head].double() for head in range(N_HEADS)]
        projected = torch.stack(wrote).sum(0) + attn.b_O.double()
        norm = after_attention(model, model.blocks[layer])
        for head in range(N_HEADS):
            part = norm_by_hand(norm, projected, wrote[head])
            found = parts.own["z"][0, :, layer, head]
            close(found, by_hand(model, 0, part, seen, logits))


def test_transformer_lens_attributes_the_same_to_heads():
    model = kind_model("folded")
    parts, _ = direct_parts(model)
    for index, context in enumerate(CONTEXTS):
        with torch.inference_mode():
            _, cache = model.run_with_cache(torch.tensor([context]))
            stack = cache.stack_head_results(layer=-1, pos_slice=-1)
            expected = cache.logit_attrs(
                stack, tokens=int(ANSWERS[index]), incorrect_tokens=17, pos_slice=-1,
                has_batch_dim=True,
            )  # fmt: skip
        found = parts.own["z"][index, 0].flatten()
        torch.testing.assert_close(found.float(), expected.flatten(), atol=1e-4, rtol=0)


def test_slopes_of_secants_are_ratios_of_differences_and_derivatives_where_logits_are_equal():
    logits = torch.tensor([[1.5, -2.0, 0.0, 30.0, 1.5 + 1e-9]], dtype=torch.float64)
    cap = 4.0
    found = secant_slopes(logits, logits[:, :1], cap)[0]
    capped = cap * torch.tanh(logits[0] / cap)
    expected = (capped[0] - capped[1:4]) / (logits[0, 0] - logits[0, 1:4])
    torch.testing.assert_close(found[1:4], expected)
    derivative = 1 - torch.tanh(logits[0, 0] / cap) ** 2
    assert float(found[0]) == pytest.approx(float(derivative), abs=1e-12)
    assert float(found[4]) == pytest.approx(float(derivative), abs=1e-8)
    assert (secant_slopes(logits, logits[:, :1], None) == 1).all()


def test_a_norm_that_is_not_known_is_refused():
    with pytest.raises(UserError, match="does not know the norm GroupNorm: expected LayerNorm or"):
        before_norm(nn.GroupNorm(1, 4), torch.zeros(1, 4), torch.zeros(1, 1, 4))


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
