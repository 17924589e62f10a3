"""Whether layers of one model can stand in another: what differs is named, and refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from layerwise.errors import UserError, shown
from layerwise.models.instance.facts import vocabulary_difference
from layerwise.models.instance.kinds import (
    Model,
    backend_of,
    decoder_prefix,
    is_seq2seq,
    original_of,
    over_original,
    stays_quantized,
)  # fmt: skip
from layerwise.models.instance.structure import ASIDE
from layerwise.models.weights.offload import OnDisk
from layerwise.models.weights.quantization import how_to_dequantize

_PLAIN = (bool, int, float, str, type(None))
# Differences of architecture are named before what follows from them.
_FIRST = ("original_architecture", "n_layers", "d_model", "d_vocab", "n_heads", "d_head")


def refuse_misfit(base: Model, other: Model) -> None:
    """Accept only two models of one architecture, vocabulary and number format."""
    difference = _difference(base, other)
    if difference is not None:
        what, of_base, of_other = difference
        raise UserError(
            f"Layers of the other model do not fit into the base: {what} is {of_base} in the base "
            f"and {of_other} in the other; expected two models of one architecture and vocabulary, "
            "such as two seeds or a base and its fine-tuned version; load both in the same way."
        )
    for model in (base, other):
        if any(isinstance(weight, OnDisk) for weight in model.parameters()):
            raise UserError(
                "A model's weights are on disk, where they cannot be exchanged: expected both "
                "models in memory; load them without offload."
            )
        if stays_quantized(model):
            raise UserError(
                "A model's weights stay quantized, and packed weights cannot be exchanged: "
                f"expected numbers in both models; {how_to_dequantize()}."
            )


def _difference(base: Model, other: Model) -> tuple[str, str, str] | None:
    """What differs, and what it is in either model."""
    kinds = ["an encoder-decoder" if is_seq2seq(m) else "decoder-only" for m in (base, other)]
    if kinds[0] != kinds[1]:
        return "the kind of model", kinds[0], kinds[1]
    backends = [backend_of(model) for model in (base, other)]
    if backends[0] != backends[1]:
        return "the backend", shown(backends[0]), shown(backends[1])
    settings, other_settings = (_settings(model) for model in (base, other))
    known = sorted(settings.keys() | other_settings.keys())
    for name in (*_FIRST, *known):
        if settings.get(name) != other_settings.get(name):
            return f"the setting {name}", shown(settings.get(name)), shown(other_settings.get(name))
    weights, donated = (dict(model.named_parameters()) for model in (base, other))
    for name in sorted(weights.keys() | donated.keys()):
        both = [_described(known.get(name)) for known in (weights, donated)]
        if both[0] != both[1]:
            return f"the weight {name}", both[0], both[1]
    if decoder_prefix(base) != decoder_prefix(other):
        return "the decoder's beginning", str(decoder_prefix(base)), str(decoder_prefix(other))
    return vocabulary_difference(base, other)


def _settings(model: Model) -> dict[str, Any]:
    original = original_of(model) if over_original(model) else None
    whole = {} if original is None else _computing_settings(original.config)
    known = [*whole.items(), *vars(model.cfg).items()]
    plain = ((k, v.item() if isinstance(v, np.generic) else v) for k, v in known)
    return {k: v for k, v in plain if k not in ASIDE and isinstance(v, _PLAIN)}


def _computing_settings(config: Any) -> dict[str, Any]:
    """The settings of an original that decide how it computes, lists as texts."""
    settings = config.to_dict().items()
    return {
        name: value if isinstance(value, _PLAIN) else str(value)
        for name, value in settings
        if not name.startswith("_") and not name.endswith("_token_id")
    }


def _described(weight: torch.Tensor | None) -> str:
    if weight is None:
        return "absent"
    kind = str(weight.dtype).removeprefix("torch.")
    return f"{tuple(weight.shape)}, {kind}, on {weight.device}"
