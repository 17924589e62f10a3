"""Pegasus: pre-norm, sinusoidal positions."""

from __future__ import annotations

from typing import Any

from layerwise.models.seq2seq.parts import Parts

from . import _fairseq

ARCHITECTURES = ("PegasusForConditionalGeneration",)
STORED = _fairseq.STORED


def parts_of(original: Any) -> Parts:
    """The parts of a ``PegasusForConditionalGeneration``."""
    return _fairseq.parts(original, _fairseq.sinusoidal, post_norm=False)
