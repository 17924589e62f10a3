"""Names of layers: a number, or an address in the encoder or the decoder.

In code and tables layers are numbered in the order of computation: 0 to n - 1 in a decoder-only
model; in an encoder-decoder first all of the encoder, then all of the decoder. Addresses are for
people.
"""

from __future__ import annotations

from collections.abc import Collection

from layerwise.errors import UserError

ENCODER, DECODER = "encoder", "decoder"
COMPUTATION = "computation"
"""The axis that all layers are on, those of the encoder before those of the decoder."""


def layer_name(layer: int, n_encoder: int) -> str:
    """Name of a layer: ``7``, ``encoder.3`` or ``decoder.3``."""
    if n_encoder == 0:
        return str(layer)
    stack = stack_name(layer, n_encoder)
    return f"{stack}.{layer - n_encoder * (stack == DECODER)}"


def stream_name(layer: int, n_encoder: int, *, of_decoder: bool) -> str:
    """Name of an encoder-decoder's residual stream after a layer, or before the first."""
    if layer == -1 or (of_decoder and layer == n_encoder - 1):
        return f"{DECODER if of_decoder else ENCODER} embedding"
    return layer_name(layer, n_encoder)


def stack_name(layer: int, n_encoder: int) -> str:
    """``encoder`` or ``decoder``: the stack that a layer, by its number, is in."""
    return ENCODER if layer < n_encoder else DECODER


def layer_number(name: str, n_encoder: int, n_layers: int) -> int:
    """The number, in the order of computation, of a layer that a person names."""
    stack, dot, number = name.rpartition(".")
    sizes = {ENCODER: n_encoder, DECODER: n_layers - n_encoder} if n_encoder else {"": n_layers}
    first = n_encoder if stack == DECODER else 0
    known = number.isdecimal() and stack in sizes and bool(dot) == bool(n_encoder)
    if known and int(number) < sizes[stack]:
        return first + int(number)
    expected = ", ".join(
        f"{layer_name(first, n_encoder)} to {layer_name(last, n_encoder)}"
        for first, last in spans(n_encoder, n_layers)
    )
    raise UserError(f"There is no layer {name!r}: expected one of {expected}.")


def removable(removed: Collection[int], n_encoder: int, n_layers: int) -> list[int]:
    """The layers that can go beside those removed: one of each stack stays."""
    layers = []
    for first, last in spans(n_encoder, n_layers):
        left = [layer for layer in range(first, last + 1) if layer not in removed]
        layers += left if len(left) > 1 else []
    return layers


def layer_axes(n_encoder: int, n_layers: int) -> dict[str, range]:
    """The layers on the axis of computation and, of an encoder-decoder, those of each stack."""
    stacks = {ENCODER: range(n_encoder), DECODER: range(n_encoder, n_layers)}
    return {COMPUTATION: range(n_layers), **(stacks if n_encoder else {})}


def spans(n_encoder: int, n_layers: int) -> list[tuple[int, int]]:
    """First and last layer of each stack, in the order of computation."""
    bounds = [(0, n_encoder), (n_encoder, n_layers)]
    return [(start, end - 1) for start, end in bounds if end > start]
