"""How many random cases the property tests of the engine try, chosen in one place.

LAYERWISE_CASES is their number altogether: 50 unless it says otherwise. From 1,000 on, tests
marked ``long`` run too; that is ``make test-long``.
"""

from __future__ import annotations

import os

from hypothesis import Phase, settings

CASES = int(os.environ.get("LAYERWISE_CASES", "50"))
LONG = CASES >= 1000


def cases(parts: int) -> settings:
    """Settings of a property test that is one of so many that share the cases."""
    # Without shrinking: a smaller example of a fault is not worth minutes of sweeps.
    phases = (Phase.explicit, Phase.generate)
    return settings(max_examples=max(1, CASES // parts), deadline=None, phases=phases)
