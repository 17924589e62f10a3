"""Granite: embeddings, outputs of sublayers and logits are scaled."""

from __future__ import annotations

from typing import Any

from torch import nn

from layerwise.models.decoder.parts import Parts
from layerwise.models.decoder.reading import FamilyTraits, Scales, read_parts

ARCHITECTURES = ("GraniteForCausalLM", "GraniteMoeForCausalLM")


def parts_of(original: nn.Module) -> Parts:
    """The parts of a Granite model."""
    config: Any = original.config
    scales = Scales(
        config.embedding_multiplier, config.residual_multiplier, 1 / config.logits_scaling
    )
    return read_parts(original, FamilyTraits(scales))
