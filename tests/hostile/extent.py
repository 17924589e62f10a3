"""Numbers of kills, flips, fuzzed files and drawn strings that are tried, and their seed.

``LAYERWISE_KILLS``, ``LAYERWISE_FLIPS`` and ``LAYERWISE_FUZZED`` are their numbers altogether, and
``LAYERWISE_HOSTILE_SEED`` decides them. ``make test-hostile`` asks for many, and for the tests that
are marked ``long``; otherwise each kind is tried a little, in some seconds.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

KILLS = int(os.environ.get("LAYERWISE_KILLS", "2"))
FLIPS = int(os.environ.get("LAYERWISE_FLIPS", "15"))
FUZZED = int(os.environ.get("LAYERWISE_FUZZED", "60"))
SEED = int(os.environ.get("LAYERWISE_HOSTILE_SEED", "0"))


def fuzz(parts: int, **drawn: st.SearchStrategy[Any]) -> Callable[[Callable[..., None]], None]:
    """Call the function below at once with drawn values; ``parts`` tests share the fuzzed files."""
    often = settings(
        max_examples=max(1, FUZZED // parts),
        deadline=None,
        database=None,
        phases=(Phase.explicit, Phase.generate),
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    return lambda tried: seed(SEED)(often(given(**drawn)(tried)))()
