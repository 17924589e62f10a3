"""Cohere's Command R: logits are scaled."""

from __future__ import annotations

from typing import Any

from torch import nn

from layerwise.models.decoder.parts import Parts
from layerwise.models.decoder.reading import FamilyTraits, Scales, read_parts

ARCHITECTURES = ("CohereForCausalLM", "Cohere2ForCausalLM")


def parts_of(original: nn.Module) -> Parts:
    """The parts of a Command R model."""
    config: Any = original.config
    return read_parts(original, FamilyTraits(Scales(logits=config.logit_scale)))
