"""Weights of two models by layer and part: how far they are apart, and the exchange.

An exchange makes no second copy of what is whole: a weight is the other model's memory. Which
weights a part has is in ``parts``, and what a sweep makes of an exchange in ``branches``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from layerwise.analyses.shared.blocks import parts_of_block
from layerwise.models.instance.kinds import Model, blocks_of
from layerwise.sweep.changes.other_weights import OtherWeights

from .names import BY_HEAD, NORMS, OUTSIDE
from .parts import WeightPart, head_parts, n_heads_at, parts_at, sites_of_layer


@contextlib.contextmanager
def transplanted(
    host: Model,
    donor: Model,
    site: str,
    layers: Sequence[int],
    t: float = 1.0,
    heads: Sequence[int] = (),
) -> Iterator[Model]:
    """Let some layers of a model have another's weights meanwhile, or weights between both."""
    with donated(host, donor, site, layers, t, heads).in_place():
        yield host


def donated(
    host: Model,
    donor: Model,
    site: str,
    layers: Sequence[int],
    t: float = 1.0,
    heads: Sequence[int] = (),
) -> OtherWeights:
    """What some weights of a model are to be, with those of another, or between both.

    Of whole weights they are the other's own memory; those of which heads are exchanged, or that
    are between both, are made on first use.
    """
    parts: dict[nn.Parameter, list[tuple[WeightPart, WeightPart]]] = {}
    both = (parts_at(model, site, layers, heads) for model in (host, donor))
    for own, other in zip(*both, strict=True):
        parts.setdefault(own.weight, []).append((own, other))
    copied = sum(
        weight.numel() * weight.element_size()
        for weight, pairs in parts.items()
        if t != 1 or any(own.rows is not None for own, _ in pairs)
    )
    values = {weight: partial(_made, weight.data, pairs, t) for weight, pairs in parts.items()}
    return OtherWeights(values, copied)


def _made(
    before: torch.Tensor, pairs: Sequence[tuple[WeightPart, WeightPart]], t: float
) -> torch.Tensor:
    """The host's weight with the donor's in some parts; the donor's own memory if that is all."""
    merged = None
    for own, other in pairs:
        donated = other.weight.data
        if own.rows is None:
            return donated if t == 1 else _between(before, donated, t)
        merged, given = before.clone() if merged is None else merged, other.of(donated)
        own.of(merged).copy_(given if t == 1 else _between(own.of(before), given, t))
    assert merged is not None
    return merged


def _between(own: torch.Tensor, other: torch.Tensor, t: float) -> torch.Tensor:
    return torch.lerp(own.float(), other.float(), t).to(own.dtype)


def distances(base: Model, other: Model, site: str = "layer") -> list[dict[str, Any]]:
    """How far the weights of two models are apart, by layer and part, and outside of the layers.

    The distance is the Frobenius norm of the difference divided by that of the base's weights.
    """
    rows: list[dict[str, Any]] = []
    inside: set[int] = set()
    for layer, (block, other_block) in enumerate(
        zip(blocks_of(base), blocks_of(other), strict=True)
    ):
        donated = parts_of_block(other, other_block)
        for name, weights in parts_of_block(base, block).items():
            pairs = zip(map(WeightPart, weights), map(WeightPart, donated[name]), strict=True)
            rows.append({"site": name, "layer": layer} | _apart(pairs))
            inside |= set(map(id, weights))
        there = site in sites_of_layer(base, layer)
        if site == NORMS and there:
            norms = (parts_at(model, site, [layer]) for model in (base, other))
            rows.append({"site": site, "layer": layer} | _apart(zip(*norms, strict=True)))
        if site in BY_HEAD and there:
            for head in range(n_heads_at(base, site, layer)):
                both = (
                    head_parts(m, b, site, head) for m, b in ((base, block), (other, other_block))
                )
                rows.append(
                    {"site": site, "layer": layer, "head": head} | _apart(zip(*both, strict=True))
                )
    beside: Mapping[str, nn.Parameter] = dict(other.named_parameters())
    for name, weight in base.named_parameters():
        if id(weight) not in inside:
            pair = (WeightPart(weight), WeightPart(beside[name]))
            rows.append({"site": OUTSIDE, "part": name} | _apart([pair]))
    return rows


def _apart(pairs: Any) -> dict[str, Any]:
    """Sizes and relative distance of some parts of weights, each with the other model's."""
    n, size, apart = 0, 0.0, 0.0
    with torch.no_grad():
        for pair in pairs:
            own, other = (part.of(part.weight).double() for part in pair)
            n += own.numel()
            size += float(own.square().sum())
            apart += float((own - other).square().sum())
    return {
        "n_parameters": n,
        "norm": size**0.5,
        "distance": (apart / size) ** 0.5 if size else None,
    }
