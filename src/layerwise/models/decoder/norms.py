"""Formula of a norm module of Hugging Face, found out by trying, or None.

Every family has a class of its own for the same two formulas; a name would say less than a trial.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import nn

Rows = Float[torch.Tensor, "*rows d_model"]
FormulaOf = Callable[[nn.Module, int], "NormFormula | None"]


@dataclass(frozen=True)
class NormFormula:
    """A norm: centre or not, divide by the root of the mean square, scale, shift."""

    centring: bool  # whether the mean is taken away first
    eps: float  # what is added to the mean square
    weight: Float[torch.Tensor, " d_model"] | None  # scales the outcome; None if nothing does
    bias: Float[torch.Tensor, " d_model"] | None  # is added to it; None if nothing is

    def __call__(self, x: Rows) -> Rows:
        """The normed activations."""
        if self.centring:
            return F.layer_norm(x, x.shape[-1:], self.weight, self.bias, self.eps)
        return F.rms_norm(x, x.shape[-1:], self.weight, self.eps)


def norm_formula(module: nn.Module, width: int) -> NormFormula | None:
    """The formula of a norm module; None if it is neither layer norm nor RMS norm."""
    return cached_formulas()(module, width)


def cached_formulas() -> FormulaOf:
    """As ``norm_formula``, where weights come and go; which formula a module has is tried once."""
    known: dict[nn.Module, int | None] = {}

    def formula(module: nn.Module, width: int) -> NormFormula | None:
        if module not in known:
            known[module] = _formula_index(module, width)
        which = known[module]
        return None if which is None else _candidates(module, width)[which]

    return formula


@torch.no_grad()
def _formula_index(module: nn.Module, width: int) -> int | None:
    """The place of a norm's formula among the candidates."""
    weights = [weight for weight in module.parameters() if weight.shape == (width,)]
    like = weights[0] if weights else torch.empty(0)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 8, width, generator=generator).to(like)
    # One row so small that its eps matters, one off centre.
    x[:, 0] *= 1e-3
    x[:, 1] += 3.0
    try:
        expected = module(x)
    except Exception:
        return None
    rough = 0.02 if torch.finfo(x.dtype).bits == 16 else 1e-4
    for place, candidate in enumerate(_candidates(module, width)):
        if torch.allclose(candidate(x), expected, rtol=rough, atol=rough / 10):
            return place
    return None


def _candidates(module: nn.Module, width: int) -> list[NormFormula]:
    scale, shift = (getattr(module, name, None) for name in ("weight", "bias"))
    weights = [None] if scale is None else [scale.detach(), 1.0 + scale.detach()]
    bias = None if shift is None else shift.detach()
    known = (getattr(module, name, None) for name in ("eps", "variance_epsilon"))
    # OLMo's norm has its eps in its forward alone.
    sizes = [float(number) for number in known if isinstance(number, int | float)] or [1e-5, 1e-6]
    return [
        NormFormula(centring, eps, weight, bias)
        for centring, weight, eps in product((False, True), weights, sizes)
        if centring or bias is None
    ]
