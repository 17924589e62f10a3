"""Weights of two models by layer and part: what is moved, how far they are apart, the moving.

Weights are exchanged in place: a parameter's memory is the other model's meanwhile, so that no
second copy is made, and its own again afterwards, whatever happens.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from layerwise.models.kinds import Model, blocks_of, by_kind

from .names import OUTSIDE

_OF_ATTENTION, _OF_MLP = ("attn", "ln1", "ln1_post"), ("mlp", "ln2", "ln2_post")


def parts_of_block(model: Model, block: Any) -> dict[str, list[nn.Parameter]]:
    """The parameters of a layer by part; parts without any are absent.

    A part is a sublayer with its norms: ``attn_out`` self-attention, ``cross_attn_out``,
    ``mlp_out``; ``layer`` is all of the block. What blocks share (T5's relative position bias) is
    part of none.

    Args:
        model: the model.
        block: one of its blocks.
    """
    found = by_kind(model, lambda _: _of_decoder_only(block), lambda _: _of_seq2seq(block))
    return {name: weights for name, weights in found.items() if weights}


def _of_decoder_only(block: Any) -> dict[str, list[nn.Parameter]]:
    def named(names: Iterable[str]) -> list[nn.Parameter]:
        return _weights(getattr(block, name, None) for name in names)

    whole = list(block.parameters())
    return {"layer": whole, "attn_out": named(_OF_ATTENTION), "mlp_out": named(_OF_MLP)}


def _of_seq2seq(block: Any) -> dict[str, list[nn.Parameter]]:
    parts = block.parts
    mlp = parts.mlp
    found = {
        "attn_out": [*_modules(parts.attn), parts.attn_norm],
        "cross_attn_out": [*_modules(parts.cross_attn), parts.cross_norm],
        "mlp_out": [mlp.up, mlp.gate, mlp.down, parts.mlp_norm],
    }
    by_part = {name: _weights(modules) for name, modules in found.items()}
    return {"layer": [one for weights in by_part.values() for one in weights], **by_part}


def _modules(attention: Any) -> list[nn.Module]:
    if attention is None:
        return []
    return [attention.q, attention.k, attention.v, attention.out]


def _weights(modules: Iterable[Any]) -> list[nn.Parameter]:
    return [weight for module in modules if module is not None for weight in module.parameters()]


def weights_of(model: Model, site: str, layers: Sequence[int]) -> list[nn.Parameter]:
    """The parameters of a part of some layers, in an order that is the same in both models.

    Args:
        model: the model.
        site: the part.
        layers: the layers; each has it.
    """
    blocks = blocks_of(model)
    return [one for layer in layers for one in parts_of_block(model, blocks[layer])[site]]


@contextlib.contextmanager
def transplanted(
    host: Model, donor: Model, site: str, layers: Sequence[int], t: float = 1.0
) -> Iterator[Model]:
    """Let some layers of a model have another's weights meanwhile, or weights between both.

    Args:
        host: the model that is changed; its own weights are put back, also after an error.
        donor: whose weights it gets.
        site: what of the layers.
        layers: which.
        t: the weights are ``host + t (donor - host)``; 1 is exactly the donor's.

    Yields:
        The host.
    """
    mine, theirs = (weights_of(model, site, layers) for model in (host, donor))
    own = [weight.data for weight in mine]
    try:
        for weight, before, other in zip(mine, own, theirs, strict=True):
            weight.data = other.data if t == 1 else _between(before, other.data, t)
        yield host
    finally:
        for weight, before in zip(mine, own, strict=True):
            weight.data = before


def _between(own: torch.Tensor, other: torch.Tensor, t: float) -> torch.Tensor:
    return torch.lerp(own.float(), other.float(), t).to(own.dtype)


def distances(base: Model, other: Model) -> list[dict[str, Any]]:
    """How far the weights of two models are apart, by layer and part, and outside of the layers.

    The distance is the Frobenius norm of the difference divided by that of the base's weights.
    """
    rows: list[dict[str, Any]] = []
    inside: set[int] = set()
    for layer, (mine, theirs) in enumerate(zip(blocks_of(base), blocks_of(other), strict=True)):
        donated = parts_of_block(other, theirs)
        for site, weights in parts_of_block(base, mine).items():
            rows.append({"site": site, "layer": layer} | _apart(weights, donated[site]))
            inside |= set(map(id, weights))
    beside: Mapping[str, nn.Parameter] = dict(other.named_parameters())
    for name, weight in base.named_parameters():
        if id(weight) not in inside:
            rows.append({"site": OUTSIDE, "part": name} | _apart([weight], [beside[name]]))
    return rows


def _apart(own: Sequence[torch.Tensor], other: Sequence[torch.Tensor]) -> dict[str, Any]:
    with torch.no_grad():
        size = sum(float(w.double().square().sum()) for w in own)
        apart = sum(
            float((a.double() - b.double()).square().sum()) for a, b in zip(own, other, strict=True)
        )
    return {
        "n_parameters": sum(weight.numel() for weight in own),
        "norm": size**0.5,
        "distance": (apart / size) ** 0.5 if size else None,
    }
