"""A block's norms and MLP as few tensor operations, or its own module where they are not known.

Invariant: what they compute is what the module computes, up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from transformer_lens.utilities.activation_functions import gelu_new

from layerwise.models.libraries.hooked import MLP, GatedMLP, LayerNorm, RMSNorm

Rows = Float[torch.Tensor, "... d_model"]
Norm = Callable[[Rows], Rows]


def norm_function(module: Any) -> Norm:
    """The norm that a module is."""
    if type(module) is RMSNorm:
        return lambda x: F.rms_norm(x, x.shape[-1:], module.w, module.eps)
    if type(module) is LayerNorm:
        return lambda x: F.layer_norm(x, x.shape[-1:], module.w, module.b, module.eps)
    return module


class FusedMLP:
    """The MLP of a module as few tensor operations."""

    def __init__(self, module: Any) -> None:
        self.module = module  # TransformerLens's MLP
        plain = type(module) in (MLP, GatedMLP) and not module.cfg.is_layer_norm_activation()
        self.known = plain
        if plain:
            self.gated = type(module) is GatedMLP
            self.into = module.W_gate.T if self.gated else module.W_in.T
            self.beside = module.W_in.T
            self.back = module.W_out
            self.b_in = _if_any(module.b_in)
            self.b_out = _if_any(module.b_out)

    def __call__(self, x: Rows) -> Rows:
        """The MLP's output."""
        if not self.known:
            return self.module(x)
        return F.linear(self._hidden_activations(x), self.back.T, self.b_out)

    def add_to(self, resid: Rows, x: Rows) -> Rows:
        """The residual stream with what the MLP makes of ``x``, written in its place."""
        if not self.known:
            return resid.add_(self.module(x))
        return add_product(resid, self._hidden_activations(x), self.back, self.b_out)

    def _hidden_activations(self, x: Rows) -> Float[torch.Tensor, "... d_mlp"]:
        if not self.gated:
            return _act(self.module.act_fn, F.linear(x, self.into, self.b_in))
        hidden = _act(self.module.act_fn, F.linear(x, self.into))
        hidden.mul_(F.linear(x, self.beside))
        return hidden if self.b_in is None else hidden.add_(self.b_in)


def add_product(
    resid: Rows,
    x: Float[torch.Tensor, "... d_in"],
    weight: Float[torch.Tensor, "d_in d_model"],
    bias: Float[torch.Tensor, " d_model"] | None,
) -> Rows:
    """``resid += x @ weight + bias``, written in its place."""
    resid.view(-1, resid.shape[-1]).addmm_(x.reshape(-1, x.shape[-1]), weight)
    return resid if bias is None else resid.add_(bias)


def _act(function: Callable[..., torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    if function is F.silu:
        return F.silu(x, inplace=True)
    # written out there as eight operations
    return F.gelu(x, approximate="tanh") if function is gelu_new else function(x)


def _if_any(bias: torch.Tensor) -> torch.Tensor | None:
    """The bias, or None if it is all zeros (TransformerLens adds zeros where there is none)."""
    return bias if bool(bias.any()) else None
