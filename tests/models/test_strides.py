"""Re-striding: bit-identical results, and no copies left to make."""

from __future__ import annotations

import copy

import einops
import pytest
import torch

from layerwise.models import restride, weights_hash
from tests.models.tiny import tiny_model

pytestmark = pytest.mark.hooked_transformer

MODELS = [
    ("gpt2", {}),
    ("gpt2", {"n_head": 1}),
    ("llama", {"num_key_value_heads": 4}),
    ("llama", {"num_key_value_heads": 1, "tie_word_embeddings": True}),
    ("opt", {}),
]
TOKENS = torch.randint(300, (2, 40), generator=torch.Generator().manual_seed(0))


def contiguous_copy(model):
    plain = copy.deepcopy(model)
    for parameter in plain.parameters():
        parameter.data = parameter.data.contiguous()
    return plain


def same_memory(made: torch.Tensor, parameter: torch.Tensor) -> bool:
    return made.data_ptr() == parameter.data_ptr()


@pytest.mark.long(but=["gpt2-config0", "llama-config2", "opt-config4"])
@pytest.mark.parametrize(("family", "config"), MODELS)
def test_logits_are_bit_identical(family, config):
    plain = contiguous_copy(tiny_model(family, **config))
    before = {name: p.data.clone() for name, p in plain.named_parameters()}
    with torch.inference_mode():
        expected = [plain(TOKENS), plain(TOKENS[:1, :1]), plain(TOKENS[:1, :7])]
    restride(plain)
    with torch.inference_mode():
        given = [plain(TOKENS), plain(TOKENS[:1, :1]), plain(TOKENS[:1, :7])]
    assert all(torch.equal(a, b) for a, b in zip(given, expected, strict=True))
    assert all(torch.equal(p, before[name]) for name, p in plain.named_parameters())


@pytest.mark.parametrize(("family", "config"), MODELS)
def test_what_the_forward_pass_rearranges_is_the_parameter_itself(family, config):
    model = tiny_model(family, **config)  # which load_model has re-strided
    assert same_memory(model.unembed.W_U.T.contiguous(), model.unembed.W_U)
    for block in model.blocks:
        for name, weight in block.attn.named_parameters(recurse=False):
            if name in ("W_Q", "W_K", "W_V", "_W_K", "_W_V"):
                assert same_memory(einops.rearrange(weight, "h d k -> (h k) d"), weight)
        out = block.attn.W_O
        assert same_memory(einops.rearrange(out, "h k d -> d (h k)").contiguous(), out)
        if model.cfg.gated_mlp:
            for name in ("W_in", "W_gate", "W_out"):
                weight = getattr(block.mlp, name)
                assert same_memory(weight.T.contiguous(), weight)


def test_the_hash_does_not_see_strides():
    model = tiny_model("llama")
    assert weights_hash(contiguous_copy(model)) == weights_hash(model)
