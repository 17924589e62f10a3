"""Formulas of norm modules, found by trying them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers.models.cohere.modeling_cohere import CohereLayerNorm
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.olmo.modeling_olmo import OlmoLayerNorm

from layerwise.models.decoder.norms import cached_formulas, norm_formula

WIDTH = 16
MODULES = {
    "layer norm": lambda: nn.LayerNorm(WIDTH, eps=1e-3),
    "RMS norm": lambda: LlamaRMSNorm(WIDTH, eps=1e-6),
    "RMS norm by one more than its weights": lambda: GemmaRMSNorm(WIDTH, eps=1e-4),
    "layer norm without a shift": lambda: CohereLayerNorm(WIDTH, eps=1e-5),
    "layer norm without weights": lambda: OlmoLayerNorm(WIDTH),
}


def randomise(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        for weight in module.parameters():
            weight.copy_(torch.rand(weight.shape) + 0.5)
    return module


def inputs() -> torch.Tensor:
    sizes = torch.tensor([1e-3, 0.1, 1.0, 3.0, 10.0])[:, None]
    return (torch.randn(2, 5, WIDTH) + 0.7) * sizes


@pytest.mark.parametrize("name", MODULES)
def test_the_formula_computes_what_the_module_does(name: str) -> None:
    torch.manual_seed(0)
    module, x = randomise(MODULES[name]()), inputs()
    formula = norm_formula(module, WIDTH)
    assert formula is not None
    torch.testing.assert_close(formula(x), module(x), atol=1e-5, rtol=1e-5)


class Halving(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x / 2


def test_what_is_no_norm_has_no_formula() -> None:
    assert norm_formula(Halving(), WIDTH) is None
    assert cached_formulas()(Halving(), WIDTH) is None


@pytest.mark.parametrize("name", MODULES)
def test_a_formula_found_once_has_the_weights_of_now(name: str, monkeypatch: Any) -> None:
    torch.manual_seed(0)
    module, x, once = randomise(MODULES[name]()), inputs(), cached_formulas()
    first = once(module, WIDTH)
    expected = module(x)
    for own, weight in list(module.named_parameters()):
        setattr(module, own, nn.Parameter(3 * weight.detach()))
    now = module(x)
    monkeypatch.setattr(module, "forward", None)  # is not tried again
    second = once(module, WIDTH)
    assert first is not None
    assert second is not None
    torch.testing.assert_close(first(x), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(second(x), now, atol=1e-5, rtol=1e-5)
