"""Weights of a block: its sublayers with their norms, in all kinds of models.

Slices of weights that belong to heads are in ``transplant.exchange.parts``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from layerwise.models.decoder.parts import BlockParts
from layerwise.models.instance.kinds import Model, by_kind, runs_original_modules

_NORMS = ("LayerNorm", "RMSNorm")
_OF_ATTENTION, _OF_MLP = ("attn", "ln1", "ln1_post"), ("mlp", "ln2", "ln2_post")


def parts_of_block(model: Model, block: Any) -> dict[str, list[nn.Parameter]]:
    """The parameters of a layer (without what blocks share) by part, a sublayer with its norms."""
    decoder_only = _original_weights if runs_original_modules(model) else _decoder_only_weights
    parts = by_kind(model, lambda _: decoder_only(block), lambda _: _seq2seq_weights(block))
    return {name: weights for name, weights in parts.items() if weights}


def _decoder_only_weights(block: Any) -> dict[str, list[nn.Parameter]]:
    def weights_of(names: Iterable[str]) -> list[nn.Parameter]:
        return _weights(getattr(block, name, None) for name in names)

    whole = list(block.parameters())
    return {"layer": whole, "attn_out": weights_of(_OF_ATTENTION), "mlp_out": weights_of(_OF_MLP)}


def _original_weights(block: Any) -> dict[str, list[nn.Parameter]]:
    """Of a decoder over its own modules; a norm that both sublayers read is attention's."""
    parts: BlockParts = block.parts
    norm = None if parts.mlp_norm is parts.attn_norm else parts.mlp_norm
    attention = _weights([parts.attn.module, parts.attn_norm, parts.attn_after])
    mlp = _weights([parts.mlp, norm, parts.mlp_after])
    return {"layer": [*attention, *mlp], "attn_out": attention, "mlp_out": mlp}


def _seq2seq_weights(block: Any) -> dict[str, list[nn.Parameter]]:
    parts = block.parts
    mlp = parts.mlp
    modules_of = {
        "attn_out": [*_modules(parts.attn), parts.attn_norm],
        "cross_attn_out": [*_modules(parts.cross_attn), parts.cross_norm],
        "mlp_out": [mlp.up, mlp.gate, mlp.down, parts.mlp_norm],
    }
    by_part = {name: _weights(modules) for name, modules in modules_of.items()}
    return {"layer": [weight for weights in by_part.values() for weight in weights], **by_part}


def _modules(attention: Any) -> list[nn.Module]:
    if attention is None:
        return []
    return [attention.q, attention.k, attention.v, attention.out]


def _weights(modules: Iterable[Any]) -> list[nn.Parameter]:
    return [weight for module in modules if module is not None for weight in module.parameters()]


def norms_of_block(model: Model, block: Any) -> list[nn.Parameter]:
    """The parameters of a layer's norms: of the stream, behind sublayers, of queries and keys."""

    def seq2seq_norms(_: Any) -> list[nn.Parameter]:
        parts = block.parts
        return _weights([parts.attn_norm, parts.cross_norm, parts.mlp_norm])

    def decoder_norms(_: Any) -> list[nn.Parameter]:
        if runs_original_modules(model):
            return _norms_of_original(block.parts)
        return _weights(m for m in block.modules() if type(m).__name__ in _NORMS)

    return by_kind(model, decoder_norms, seq2seq_norms)


def _norms_of_original(parts: BlockParts) -> list[nn.Parameter]:
    inside = (module for name, module in parts.attn.module.named_children() if "norm" in name)
    norms = [parts.attn_norm, parts.attn_after, *inside, parts.mlp_norm, parts.mlp_after]
    return list(dict.fromkeys(_weights(norms)))
