"""What a number of items can establish: how large a loss must be to be found."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

# Share of samples in which a loss is to be found, and of answers that a change gains for nothing,
# unless it is known: on SmolLM2-135M layers that do not matter flip 10 % and more of the answers.
POWER, GAINED = 0.8, 0.05


def power_of_mcnemar(loss: float, n: int, level: float, gained: float = GAINED) -> float:
    """Chance that a two-sided exact McNemar test establishes a loss (exact enumeration).

    Of ``n`` items a share ``gained + loss`` is lost and ``gained`` is gained. Given how many
    differ, those lost are binomial, and the test rejects from a number of them on; the chances are
    summed over how many differ (Duffy 1984, Biometrics 40, 1005-1015).

    Args:
        loss: accuracy that is lost, 0 or more; at most ``1 - 2 * gained``.
        n: items.
        level: of the test, after correction.
        gained: share of the items that are gained for nothing.
    """
    from scipy.stats import binom

    differ = np.arange(n + 1)
    # the fewest lost items that are significant among those that differ
    fewest = binom.isf(level / 2, differ, 0.5) + 1
    share = min(loss + 2 * gained, 1.0)
    lost = (gained + loss) / share if share > 0 else 0.5
    found = binom.sf(fewest - 1, differ, lost)
    return float(binom.pmf(differ, n, share) @ found)


@lru_cache(maxsize=1024)
def detectable_loss(
    n: int, level: float, gained: float = GAINED, power: float = POWER
) -> float | None:
    """The smallest loss of accuracy that so many items establish in so many samples.

    Args:
        n: items.
        level: of the test, after correction: divided by the number of layers, say.
        gained: share of the items that are gained for nothing.
        power: share of the samples in which the loss is to be found.

    Returns:
        The loss, in 0..1, to a thousandth; None if even the largest is not found so often.
    """
    top = 1 - 2 * gained
    if n < 1 or power_of_mcnemar(top, n, level, gained) < power:
        return None
    low, high = 0.0, top
    while high - low > 0.0005:
        middle = (low + high) / 2
        found = power_of_mcnemar(middle, n, level, gained) >= power
        low, high = (low, middle) if found else (middle, high)
    return high
