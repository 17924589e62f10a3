"""Names of layers on a page: by number, or by stack and number in an encoder-decoder.

The model is named once, around all that is written and drawn of it; nothing is written here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

from layerwise.ground.layer_names import DECODER, ENCODER, layer_name
from layerwise.storage.provenance import ModelFacts


class Stacks(NamedTuple):
    """Layers of the encoder (0 if there is none), and of the whole model."""

    n_encoder: int
    n_layers: int


_ONE_STACK = Stacks(0, 0)
_STACKS: ContextVar[Stacks] = ContextVar("stacks", default=_ONE_STACK)
NAMES = (ENCODER, DECODER)


@contextmanager
def model_layer_names(model: ModelFacts | None) -> Iterator[None]:
    """Let all layers that are written or drawn inside have the names that this model gives them."""
    named = Stacks(model.n_encoder_layers, model.n_layers) if model else _ONE_STACK
    token = _STACKS.set(named)
    try:
        yield
    finally:
        _STACKS.reset(token)


def model_title(model: ModelFacts) -> str:
    """``"SmolLM2-135M, 4-bit (Q4_1) weights in float32"`` of a GGUF file; else its name."""
    match = re.fullmatch(r"(.+?)[.-](I?Q(\d)\w*|B?F(?:16|32))", model.gguf, re.IGNORECASE)
    if not match:
        return model.name
    name, kind, bits = match.groups()
    stored = f"{bits}-bit ({kind})" if bits else kind
    return f"{name}, {stored} weights in {model.dtype}"


def stacks() -> Stacks:
    """The stacks of the model that is written about; without an encoder if none was named."""
    return _STACKS.get()


def name_layer(layer: int) -> str:
    """``7``, ``encoder.3`` or ``decoder.3``; what is before the first layer stays ``-1``."""
    return layer_name(int(layer), stacks().n_encoder) if layer >= 0 else str(int(layer))


def name_intervention(intervention: str) -> str:
    """An intervention's id with its layers named: ``skip:layer=decoder.1``."""
    return re.sub(
        r"(?<=layer=)\d+|(?<=layers=)\d+(?:\+\d+)*",
        lambda layers: re.sub(r"\d+", lambda layer: name_layer(int(layer[0])), layers[0]),
        intervention,
    )
