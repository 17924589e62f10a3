"""The direct path from each part of a model to its logits, exactly, for prompts' last tokens.

What is a sum is taken apart: the residual stream into what layers, heads and biases wrote. What
is not (norms, soft-cap, softmax) is held at its value in this very run. Knows no tasks.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from einops import einsum
from jaxtyping import Float, Int
from torch import nn
from transformer_lens.utilities.architectures import POST_NORM_ARCHITECTURES

from layerwise.errors import UserError
from layerwise.models.decoder.model import DecoderConfig
from layerwise.models.decoder.norms import norm_formula
from layerwise.models.instance.kinds import DecoderOnly, Model, logit_cap
from layerwise.models.libraries.hooked import LayerNorm, LayerNormPre, RMSNorm, RMSNormPre
from layerwise.sweep.activations.sites import StackSites, loaded_block

Directions = Float[torch.Tensor, "item metric d_model"]
Values = Float[torch.Tensor, "item metric"]
# Columns of the unembedding that are turned to float64 at once.
_COLUMNS = 8192


# By component as in tables: of a layer ``item metric layer``, of heads with one more axis, last.
Parts = dict[str, torch.Tensor]
# The terms of the last stream and the logits; heads and biases of sublayers are within these.
_TERMS = ("embedding", "norm_bias", "unembed_bias")
_TERMS_BY_LAYER = ("attn_out", "mlp_out", "layer_norm_bias", "cross_attn_out")


@dataclass(frozen=True)
class LogitSums:
    """Weighted sums of differences between logits: the model's own, and what they are read by."""

    value: Values
    direction: Directions  # what is read of the normed residual stream
    bias: Values  # what the unembedding's bias adds


@dataclass(frozen=True)
class Direct:
    """Contributions of every part of a model to some readings."""

    own: Parts  # of the only stack, or of the decoder, its cross-attention among them
    # Of an encoder, through cross-attention: another way to take that apart.
    encoder: Parts = field(default_factory=dict)

    @property
    def total(self) -> Values:
        """All that sums to the reading."""
        return _total(self.own)

    @property
    def through_cross(self) -> Values:
        """All of cross-attention, by the encoder's parts and the biases on the way."""
        biases = self.own["cross_attn_bias"] + self.own["cross_v_bias"]
        return _total(self.encoder) + biases.sum(-1)

    def gap(self, value: Values) -> float:
        """By how much the parts miss what they should sum to, at most."""
        missed = [self.total - value]
        if self.encoder:
            missed.append(self.through_cross - self.own["cross_attn_out"].sum(-1))
        return max(float(part.abs().max()) for part in missed)


def _total(parts: Parts) -> Values:
    terms = [parts[name] for name in _TERMS if name in parts]
    layers = [parts[name].sum(-1) for name in _TERMS_BY_LAYER if name in parts]
    return torch.stack([*terms, *layers]).sum(0)


def read_differences(
    model: Model,
    uncapped: Float[torch.Tensor, "item d_vocab"],
    answers: Int[torch.Tensor, " item"],
    weights: Float[torch.Tensor, "item metric d_vocab"],
) -> LogitSums:
    """The weighted sum over tokens of the answer's logit minus theirs."""
    of_answer = uncapped.gather(1, answers[:, None])
    slopes = secant_slopes(uncapped, of_answer, logit_cap(model))
    pulls = weights * slopes[:, None]
    value = (pulls * (of_answer - uncapped)[:, None]).sum(-1)
    pulls = -pulls
    at = answers[:, None, None].expand(-1, weights.shape[1], 1)
    pulls.scatter_add_(2, at, -pulls.sum(-1, keepdim=True))
    return LogitSums(value, _pull_through_unembedding(model, pulls), pulls @ model.b_U.double())


def secant_slopes(
    logits: Float[torch.Tensor, "item d_vocab"],
    of_answer: Float[torch.Tensor, "item 1"],
    cap: float | None,
) -> Float[torch.Tensor, "item d_vocab"]:
    """(capped answer - capped logit) / (answer - logit) for every token; 1 without a cap.

    By tanh x - tanh y = tanh(x - y) (1 - tanh x tanh y), exact where both are nearly equal.
    """
    if cap is None:
        return torch.ones_like(logits)
    apart = (of_answer - logits) / cap
    quotient = torch.where(apart == 0, 1.0, apart.tanh() / torch.where(apart == 0, 1.0, apart))
    return quotient * (1 - (of_answer / cap).tanh() * (logits / cap).tanh())


def _pull_through_unembedding(
    model: Model, pulls: Float[torch.Tensor, "item metric d_vocab"]
) -> Directions:
    total = pulls.new_zeros(*pulls.shape[:2], model.cfg.d_model)
    unembedding = model.W_U  # once, for some models multiply all of it by a scale
    for start in range(0, pulls.shape[-1], _COLUMNS):
        columns = slice(start, start + _COLUMNS)
        total += pulls[..., columns] @ unembedding[:, columns].double().T
    return total


def _norm_properties(norm: Any, width: int) -> tuple[bool, float, Any, Any]:
    """Of a norm of either kind of models: does it centre, its epsilon, its weight and its bias."""
    if isinstance(norm, LayerNorm | LayerNormPre | RMSNorm | RMSNormPre):
        centring = isinstance(norm, LayerNorm | LayerNormPre)
        return centring, norm.eps, getattr(norm, "w", None), getattr(norm, "b", None)
    formula = norm_formula(norm, width)
    if formula is not None:
        return formula.centring, formula.eps, formula.weight, formula.bias
    raise UserError(
        f"Attribution does not know the norm {type(norm).__name__}: expected LayerNorm or "
        "RMSNorm; use ablation or patching for this model."
    )


def before_norm(
    norm: Any, x: Float[torch.Tensor, "item d_model"], direction: Directions
) -> tuple[Directions, Values]:
    """Pull a direction back through a frozen norm.

    The norm's scale is held at that of ``x``, its input in this run; the rest is linear.
    """
    if norm is None or isinstance(norm, nn.Identity):
        return direction, torch.zeros_like(direction[..., 0])
    centring, eps, weight, bias = _norm_properties(norm, x.shape[-1])
    x = x.double()
    x = x - x.mean(-1, keepdim=True) if centring else x
    scale = (x.pow(2).mean(-1, keepdim=True) + eps).sqrt()
    added = torch.zeros_like(direction[..., 0]) if bias is None else direction @ bias.double()
    before = (direction if weight is None else direction * weight.double()) / scale[:, None]
    return (before - before.mean(-1, keepdim=True) if centring else before), added


# What each layer adds to a reading.
_BY_LAYER = "layer item d_model, item metric d_model -> item metric layer"


def direct(model: DecoderOnly, sites: StackSites, reading: LogitSums) -> Direct:
    """Contribution of every part of the model to a reading."""
    norm = getattr(model, "ln_final", None) if model.cfg.normalization_type else None
    read, norm_bias = before_norm(norm, sites.final, reading.direction)
    heads, biases = [], []
    for layer in range(model.cfg.n_layers):
        with loaded_block(model, layer) as block:
            of_heads, of_bias = _attention(block, model.cfg, sites.z[layer], read)
        heads.append(of_heads)
        biases.append(of_bias)
    return Direct(
        {
            "attn_out": einsum(sites.attn_out.double(), read, _BY_LAYER),
            "mlp_out": einsum(sites.mlp_out.double(), read, _BY_LAYER),
            "attn_bias": torch.stack(biases, dim=2),
            "z": torch.stack(heads, dim=2),
            "embedding": project(sites.embedding, read),
            "norm_bias": norm_bias,
            "unembed_bias": reading.bias,
        }
    )


def project(x: Float[torch.Tensor, "item d_model"], direction: Directions) -> Values:
    """Reading of a sum's part by a direction that reads the sum."""
    return einsum(x.double(), direction, "item d_model, item metric d_model -> item metric")


def _attention(
    block: Any, cfg: Any, z: Float[torch.Tensor, "item head d_head"], read: Directions
) -> tuple[Float[torch.Tensor, "item metric head"], Values]:
    """Contribution of each head, by its own rows of the output projection, and of its bias."""
    weight, bias, z = block.attn.W_O.double(), block.attn.b_O.double(), z.double()
    projected = einsum(z, weight, "item head d, head d d_model -> item d_model") + bias
    read, added = before_norm(_norm_after_attention(block, cfg), projected, read)
    return project_heads(z, weight, read), read @ bias + added


def project_heads(
    z: Float[torch.Tensor, "item head d_head"],
    weight: Float[torch.Tensor, "head d_head d_model"],
    read: Directions,
) -> Float[torch.Tensor, "item metric head"]:
    """Contribution of each head's output, times its own rows of the output projection."""
    by_head = einsum(weight, read, "head d d_model, item metric d_model -> item metric head d")
    return einsum(z, by_head, "item head d, item metric head d -> item metric head")


def _norm_after_attention(block: Any, cfg: Any) -> Any:
    """The norm between the output projection and the residual stream (Gemma 2, OLMo 2), if any."""
    if isinstance(cfg, DecoderConfig):
        return block.parts.attn_after
    if cfg.original_architecture in POST_NORM_ARCHITECTURES:
        return block.ln1
    return block.ln1_post if cfg.use_normalization_before_and_after else None
