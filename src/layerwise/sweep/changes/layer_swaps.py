"""The exchange of two neighbouring layers, as an intervention of the sweep.

Each of the two places runs with the weights of the other, so nothing is copied and the engine knows
no further kind of edit. Layers that differ in more than their weights are refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

from layerwise.errors import UserError, short_repr
from layerwise.ground.layer_names import layer_name
from layerwise.models.instance.kinds import Model, is_quantized, model_blocks, n_encoder_layers
from layerwise.models.libraries.hooked import HookPoint
from layerwise.models.weights.offload import blocks_on_disk

from .edits import BLOCK, OtherWeights, SwapWeights
from .interventions import Intervention

# Fields of modules that say which layer it is.
_WHICH = ("name", "layer_id", "layer_idx", "layer_index", "layer_number")


def swap_layers(model: Model, layer: int) -> Intervention:
    """Exchange a layer and the next one: each runs with the other's weights.

    Lad et al. 2024 (arXiv:2406.19384) swap neighbours to see how far the order of layers matters.

    Args:
        model: the model whose weights are exchanged; it is not changed itself.
        layer: the first of the two layers.

    Raises:
        UserError: if there is no next layer, or the two differ in more than their weights, such as
            a sliding window or a rotary base that one of them has.

    Example:
        >>> swap_layers(model, 3).id  # doctest: +SKIP
        'swap:layers=3+4'
    """
    n_layers, n_encoder = model.cfg.n_layers, n_encoder_layers(model)
    if not 0 <= layer < n_layers - 1:
        raise UserError(
            f"Layer {layer} has no next layer to change places with: expected 0 to {n_layers - 2}, "
            f"as the model has {n_layers} layers."
        )
    both = f"{layer_name(layer, n_encoder)} and {layer_name(layer + 1, n_encoder)}"
    if blocks_on_disk(model) is not None or is_quantized(model):
        kind = "quantized" if is_quantized(model) else "on disk"
        raise UserError(
            f"Layers {both} cannot change places: their weights are {kind}; expected weights in "
            "memory in a plain number format, so load the model so."
        )
    first, second = (_Layer.from_block(block) for block in model_blocks(model)[layer : layer + 2])
    why = "they are of two stacks" if layer + 1 == n_encoder else first.difference(second)
    if why:
        raise UserError(
            f"Layers {both} cannot change places: {why}; expected two layers that differ in their "
            "weights alone, so name others or skip layers instead."
        )
    edits = (
        SwapWeights(layer, BLOCK, _weights_of(first, second)),
        SwapWeights(layer + 1, BLOCK, _weights_of(second, first)),
    )
    return Intervention(f"swap:layers={layer}+{layer + 1}", "swap", "layers", edits)


class _Layer(NamedTuple):
    """A layer as names and values, in the order of its modules."""

    weights: list[tuple[str, nn.Parameter]]
    buffers: list[tuple[str, torch.Tensor]]
    settings: list[tuple[str, Any]]  # types of its parts, and their numbers and names

    @classmethod
    def from_block(cls, block: Any) -> _Layer:
        """All that a block holds."""
        found = cls([], [], [])
        for name, part in _parts(block, ""):
            found.settings.append((name or "the block", type(part).__name__))
            if isinstance(part, nn.Module):
                named = part.named_parameters(recurse=False)
                found.weights.extend((f"{name}.{key}", weight) for key, weight in named)
                kept = part.named_buffers(recurse=False)
                found.buffers.extend((f"{name}.{key}", buffer) for key, buffer in kept)
            found.settings.extend(
                (f"{name}.{key}", value)
                for key, value in vars(part).items()
                if isinstance(value, int | float | str | None) and key not in _WHICH
            )
        return found

    def difference(self, other: _Layer) -> str:
        """The first thing beside the values of weights that differs; empty if none does."""
        for (name, own), (second, others) in zip(self.settings, other.settings, strict=False):
            if name != second:
                return f"one of them has {min(name, second).lstrip('.')}"
            if own != others:
                at = name.lstrip(".")
                return f"{at} is {short_repr(own)} in one and {short_repr(others)} in the other"
        shapes = [[(name, tuple(w.shape)) for name, w in one.weights] for one in (self, other)]
        if len(self.settings) != len(other.settings) or shapes[0] != shapes[1]:
            return "their weights have other names or shapes"
        for (name, own), (_, others) in zip(self.buffers, other.buffers, strict=True):
            if own.shape != others.shape or not (own.is_meta or torch.equal(own, others)):
                return f"they differ in {name.lstrip('.')}, which is no weight"
        return ""


def _parts(part: Any, name: str) -> Iterator[tuple[str, Any]]:
    """The modules and the dataclasses that a block is made of, each with its name."""
    if isinstance(part, HookPoint):
        return
    if isinstance(part, nn.Module):
        yield name, part
        for key, child in part.named_children():
            yield from _parts(child, f"{name}.{key}")
        own = getattr(part, "parts", None)
        if is_dataclass(own):
            yield from _parts(own, name)
    elif is_dataclass(part):
        yield name, part
        for each in fields(part):
            yield from _parts(getattr(part, each.name), f"{name}.{each.name}")


def _weights_of(own: _Layer, other: _Layer) -> OtherWeights:
    """The weights of one layer for those of another."""
    # Their memory of now: within ``in_place`` the parameter itself holds the other's.
    pairs = zip(own.weights, other.weights, strict=True)
    return OtherWeights({
        weight: lambda given=given.data: given for (_, weight), (_, given) in pairs
    })  # fmt: skip
