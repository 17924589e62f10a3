from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from layerwise.models.libraries.hooked import (
    MLP,
    GatedMLP,
    LayerNorm,
    LayerNormPre,
    RMSNorm,
    RMSNormPre,
)
from layerwise.sweep.packed.modules import FusedMLP, norm_function
from tests.hooked import HookedTransformerConfig

D_MODEL, D_MLP = 12, 20


def config(**changes) -> HookedTransformerConfig:
    given = {
        "n_layers": 1,
        "d_model": D_MODEL,
        "d_mlp": D_MLP,
        "n_ctx": 8,
        "d_head": 4,
        "act_fn": "gelu",
        "eps": 1e-3,
        "device": "cpu",
    }
    return HookedTransformerConfig(**(given | changes))


def randomise(module: torch.nn.Module, biases: bool = True) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(0)
    for name, parameter in module.named_parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
        if name.startswith("b_") and not biases:
            parameter.data.zero_()
    return module


def activation(seed: int = 1) -> torch.Tensor:
    return 3 + torch.randn(2, 5, D_MODEL, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", [LayerNorm, RMSNorm, LayerNormPre, RMSNormPre])
def test_norms_equal_the_modules(kind):
    module = randomise(kind(config()))
    x = activation()
    given = x.clone()
    torch.testing.assert_close(norm_function(module)(x), module(given), atol=1e-5, rtol=1e-5)
    assert torch.equal(x, given)


@pytest.mark.parametrize("biases", [True, False])
@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("act_fn", ["gelu", "gelu_new", "relu", "silu", "solu_ln"])
def test_mlps_equal_the_modules(act_fn, gated, biases):
    kind = GatedMLP if gated else MLP
    module = randomise(kind(config(act_fn=act_fn, gated_mlp=gated)), biases)
    fused = FusedMLP(module)
    assert fused.known is (act_fn != "solu_ln")
    x, resid = activation(), activation(2)
    given, before = x.clone(), resid.clone()
    expected = module(given)
    torch.testing.assert_close(fused(x), expected, atol=1e-4, rtol=1e-5)
    assert torch.equal(x, given)
    added = fused.add_to(resid, x)
    torch.testing.assert_close(added, before + expected, atol=1e-4, rtol=1e-5)
    assert added is resid  # written in its place
    assert torch.equal(x, given)


def test_an_mlp_that_is_not_known_is_its_own_module():
    module = torch.nn.Linear(D_MODEL, D_MODEL)
    module.cfg = SimpleNamespace()
    fused = FusedMLP(module)
    assert not fused.known
    assert torch.equal(fused(activation()), module(activation()))
    torch.testing.assert_close(
        fused.add_to(activation(2), activation()), activation(2) + module(activation())
    )
