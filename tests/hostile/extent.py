"""How many kills, flips, fuzzed files and drawn strings are tried, and from which seed.

``LAYERWISE_KILLS``, ``LAYERWISE_FLIPS`` and ``LAYERWISE_FUZZED`` are their numbers altogether, and
``LAYERWISE_HOSTILE_SEED`` decides them. ``make test-hostile`` asks for many, and for the tests that
are marked ``long``; otherwise each kind is tried a little, in some seconds.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, Phase, settings

KILLS = int(os.environ.get("LAYERWISE_KILLS", "2"))
FLIPS = int(os.environ.get("LAYERWISE_FLIPS", "30"))
FUZZED = int(os.environ.get("LAYERWISE_FUZZED", "60"))
SEED = int(os.environ.get("LAYERWISE_HOSTILE_SEED", "0"))


def fuzzed(parts: int) -> settings:
    """Settings of a property test that is one of so many that share the fuzzed files."""
    return settings(
        max_examples=max(1, FUZZED // parts),
        deadline=None,
        database=None,
        phases=(Phase.explicit, Phase.generate),
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
