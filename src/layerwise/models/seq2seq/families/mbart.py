"""mBART: pre-norm, learned positions, a norm of the embedding."""

from __future__ import annotations

from typing import Any

from layerwise.models.seq2seq.parts import Parts

from . import _fairseq

ARCHITECTURES = ("MBartForConditionalGeneration",)
STORED = _fairseq.STORED


def parts_of(original: Any) -> Parts:
    """The parts of a ``MBartForConditionalGeneration``."""
    return _fairseq.parts(original, _fairseq.learned, post_norm=False)
