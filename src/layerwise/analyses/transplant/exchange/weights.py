"""Weights of two models by layer and part: how far they are apart, and the exchange.

An exchange makes no second copy of what is whole: a weight is the other model's memory. Which
weights a part has is in ``parts``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import nn

from layerwise.analyses.shared.blocks import parts_of_block
from layerwise.models.instance.kinds import Model, heads_per_key, model_blocks, n_encoder_layers
from layerwise.runs.dry_sweeps import Sweeper
from layerwise.sweep import Generate, Intervention, Sweep, SweepStats, together
from layerwise.sweep.changes.edits import BLOCK, EMBED, END, MEMORY_NORM, OtherWeights, SwapWeights
from layerwise.sweep.changes.interventions import from_donor, with_weights
from layerwise.sweep.requests import Request

from . import names
from .names import BY_HEAD, KV_GROUP, NORMS, OUTSIDE
from .parts import WeightPart, n_site_heads, site_weights, sites_of_layer
from .spec import Change

# The share of the memory budget that copies of weights may take while texts are written.
FOR_COPIES = 8


def is_alone(change: Change) -> bool:
    """True if a change needs the model to itself.

    T5's relative positions are read in all layers; embeddings between two models would be made
    anew for every new token of a text.
    """
    on_the_way = change.site in names.OF_NO_LAYER and change.t != 1
    return on_the_way or change.site == names.RELATIVE


@dataclass(frozen=True)
class Exchange:
    """Changes of a model's weights, with those of another, that a sweep can make.

    What changes have in common is one value, so that branches part only where they differ.
    """

    host: Model  # the model
    donor: Model  # the other
    known: dict[Hashable, OtherWeights] = field(default_factory=dict, repr=False)

    def intervention(self, change: Change) -> Intervention:
        """A change as what a sweep makes of it; nothing where the model has it in place."""
        if change.exchange == names.ACTIVATIONS:
            return activation_exchange(change, self.donor)
        return with_weights(change.id, change.site, tuple(self._edits(change)))

    def _edits(self, change: Change) -> Iterator[SwapWeights]:
        if is_alone(change):
            return
        if change.site in names.OF_NO_LAYER:
            weights, last = self._weights(change, (), ()), self.host.cfg.n_layers
            n_encoder = n_encoder_layers(self.host)
            if change.site in (names.EMBED, names.TIED):
                yield SwapWeights(0, EMBED, weights)
            if change.site == names.FINAL_NORM and n_encoder:
                yield SwapWeights(n_encoder - 1, MEMORY_NORM, weights)
            if change.site in (names.UNEMBED, names.TIED, names.FINAL_NORM):
                yield SwapWeights(last, END, weights)
            return
        for layer, heads in change.by_layer().items():
            layers = (layer,) * max(1, len(heads))
            yield SwapWeights(layer, BLOCK, self._weights(change, layers, heads))

    def _weights(
        self, change: Change, layers: tuple[int, ...], heads: tuple[int, ...]
    ) -> OtherWeights:
        key = (change.site, change.t, layers, tuple(sorted(heads)))
        if key not in self.known:
            made = donor_weights(self.host, self.donor, change.site, layers, change.t, heads)
            self.known[key] = made
        return self.known[key]

    def donated_weights(self, change: Change) -> OtherWeights:
        """Weights of a change."""
        where = change.site, change.layers, change.t, change.heads
        return donor_weights(self.host, self.donor, *where)

    def sweep_groups(
        self, changes: Sequence[Change], writes: bool, memory_budget: int
    ) -> Iterator[tuple[Change, ...]]:
        """Changes of one sweep each: those that are alone; of others as many as copies fit."""
        yield from ((one,) for one in changes if is_alone(one))
        room = memory_budget // FOR_COPIES if writes else None
        group: list[Change] = []
        copies: set[OtherWeights] = set()
        for change in (one for one in changes if not is_alone(one)):
            own_copies = {edit.weights for edit in self._edits(change)}
            more = sum(copy.copied_bytes for copy in copies | own_copies)
            if group and room is not None and more > room:
                yield tuple(group)
                group, copies = [], set()
            group.append(change)
            copies |= own_copies
        if group:
            yield tuple(group)


def activation_exchange(change: Change, donor: Model) -> Intervention:
    """A change of activations, at every position, as what a sweep makes of it."""
    site: Any = {"layer": "resid_post", KV_GROUP: "z"}.get(change.site, change.site)
    n_shared = heads_per_key(donor.cfg) if change.site == KV_GROUP else 1
    given = []
    for layer, heads in change.by_layer().items():
        queries = [range(head * n_shared, (head + 1) * n_shared) for head in heads]
        given.append(from_donor(site, layer, donor, tuple(chain(*queries)) or None))
    return together(given)


def sweep_with_donor(
    by: Sweeper, changes: Sequence[Intervention], requests: Sequence[Request], method: str
) -> Sweep:
    """Answers under another model's activations; texts by plain forwards of both models."""
    outcomes: list[list[Any]] = [[None] * len(requests) for _ in changes]
    stats = SweepStats()
    for written, how in ((False, method), (True, "reference")):
        chosen = [i for i, one in enumerate(requests) if isinstance(one, Generate) == written]
        if chosen:
            swept = by.sweep(changes, [requests[i] for i in chosen], how)
            stats += swept.stats
            for of_change, found in zip(outcomes, swept.outcomes, strict=True):
                for i, outcome in zip(chosen, found, strict=True):
                    of_change[i] = outcome
    return Sweep(outcomes, stats)


@contextlib.contextmanager
def use_donor_weights(
    host: Model,
    donor: Model,
    site: str,
    layers: Sequence[int],
    t: float = 1.0,
    heads: Sequence[int] = (),
) -> Iterator[Model]:
    """Let some layers of a model have another's weights meanwhile, or weights between both."""
    with donor_weights(host, donor, site, layers, t, heads).in_place():
        yield host


def donor_weights(
    host: Model,
    donor: Model,
    site: str,
    layers: Sequence[int],
    t: float = 1.0,
    heads: Sequence[int] = (),
) -> OtherWeights:
    """Weights of a model replaced by those of another, or between both.

    Whole weights are the other's own memory; others are made on first use.
    """
    parts: dict[nn.Parameter, list[tuple[WeightPart, WeightPart]]] = {}
    both = (site_weights(model, site, layers, heads) for model in (host, donor))
    for own, other in zip(*both, strict=True):
        parts.setdefault(own.weight, []).append((own, other))
    copied = sum(
        weight.numel() * weight.element_size()
        for weight, pairs in parts.items()
        if t != 1 or any(own.rows is not None for own, _ in pairs)
    )
    values = {
        weight: partial(_merge_weights, weight.data, pairs, t) for weight, pairs in parts.items()
    }
    return OtherWeights(values, copied)


def _merge_weights(
    before: torch.Tensor, pairs: Sequence[tuple[WeightPart, WeightPart]], t: float
) -> torch.Tensor:
    """The host's weight with the donor's in some parts; the donor's own memory if that is all."""
    merged = None
    for own, other in pairs:
        donated = other.weight.data
        if own.rows is None:
            return donated if t == 1 else _interpolate(before, donated, t)
        merged, given = before.clone() if merged is None else merged, other.view(donated)
        own.view(merged).copy_(given if t == 1 else _interpolate(own.view(before), given, t))
    assert merged is not None
    return merged


def _interpolate(own: torch.Tensor, other: torch.Tensor, t: float) -> torch.Tensor:
    return torch.lerp(own.float(), other.float(), t).to(own.dtype)


def distances(base: Model, other: Model, site: str = "layer") -> list[dict[str, Any]]:
    """Frobenius norm of the difference of two models' weights, relative to the base's, by place."""
    rows, layers = [], range(base.cfg.n_layers)
    for layer in layers:
        parts = list(parts_of_block(base, model_blocks(base)[layer]))
        if site in (NORMS, *BY_HEAD) and site in sites_of_layer(base, layer):
            parts.append(site)
        for name in parts:
            heads = range(n_site_heads(base, name, layer)) if name in BY_HEAD else [None]
            for head in heads:
                of_head = () if head is None else (head,)
                both = (site_weights(model, name, [layer], of_head) for model in (base, other))
                pairs = zip(*both, strict=True)
                rows.append({"site": name, "layer": layer, "head": head} | _weight_distance(pairs))
    inside = {id(part.weight) for part in site_weights(base, "layer", layers)}
    beside = dict(other.named_parameters())
    for name, weight in base.named_parameters():
        if id(weight) not in inside:
            pair = (WeightPart(weight), WeightPart(beside[name]))
            rows.append({"site": OUTSIDE, "part": name} | _weight_distance([pair]))
    return rows


def _weight_distance(pairs: Any) -> dict[str, Any]:
    """Sizes and relative distance of some parts of weights, each with the other model's."""
    n, size, apart = 0, 0.0, 0.0
    with torch.no_grad():
        for pair in pairs:
            own, other = (part.view(part.weight).double() for part in pair)
            n += own.numel()
            size += float(own.square().sum())
            apart += float((own - other).square().sum())
    return {
        "n_parameters": n,
        "norm": size**0.5,
        "distance": (apart / size) ** 0.5 if size else None,
    }
