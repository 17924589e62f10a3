"""What a number of items can establish: how large a loss must be to be found."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

LEVEL = 0.05
# Share of samples in which a loss is to be found, and of answers that a change gains for nothing,
# unless it is known: on SmolLM2-135M layers that do not matter flip 10 % and more of the answers.
POWER, GAINED = 0.8, 0.05
# The loss that a run is to show unless its user asks fewer items.
SHOWN = 0.2
# Correlation of an item's changes under two protocols: 0 to 0.5 by capability of SmolLM2-135M.
ALIKE = 0.5


def power_of_mcnemar(loss: float, n: int, level: float, gained: float = GAINED) -> float:
    """Chance that a two-sided exact McNemar test establishes a loss (exact enumeration)."""
    # Of ``n`` items a share ``gained + loss`` is lost and ``gained`` is gained. Given how many
    # differ, those lost are binomial, and the test rejects from a number of them on; the chances
    # are summed over how many differ (Duffy 1984, Biometrics 40, 1005-1015).
    from scipy.stats import binom

    differ = np.arange(n + 1)
    # the fewest lost items that are significant among those that differ
    fewest = binom.isf(level / 2, differ, 0.5) + 1
    share = min(loss + 2 * gained, 1.0)
    lost = (gained + loss) / share if share > 0 else 0.5
    tails = binom.sf(fewest - 1, differ, lost)
    return float(binom.pmf(differ, n, share) @ tails)


@lru_cache(maxsize=1024)
def detectable_loss(
    n: int, level: float, gained: float = GAINED, power: float = POWER
) -> float | None:
    """The smallest loss of accuracy that so many items establish in so many samples."""
    top = 1 - 2 * gained
    if n < 1 or power_of_mcnemar(top, n, level, gained) < power:
        return None
    low, high = 0.0, top
    while high - low > 0.0005:
        middle = (low + high) / 2
        enough = power_of_mcnemar(middle, n, level, gained) >= power
        low, high = (low, middle) if enough else (middle, high)
    return high


def independent_answers(n_items: int, n_answers: int) -> float:
    """How many independent answers tell as much as several about each item (Kish 1965)."""
    return n_answers / (1 + (n_answers / n_items - 1) * ALIKE) if n_items else 0.0


def smallest_loss(answers: float, n_tests: int) -> float | None:
    """The smallest loss of a layer that a capability's test establishes in 8 of 10 runs."""
    # The test flips the signs of whole items; of independent answers it is McNemar's. Holm's first
    # step divides the level by all tests, so that this is an upper bound where many layers matter.
    return detectable_loss(int(answers), LEVEL / max(n_tests, 1))


@lru_cache(maxsize=1024)
def answers_for(loss: float, n_tests: int) -> int:
    """How many independent answers ``smallest_loss`` needs for a loss above 0, in 0..1."""
    top = 1 - 2 * GAINED
    level, wanted = LEVEL / max(n_tests, 1), min(loss, top)
    few, enough = 0, 1
    while power_of_mcnemar(wanted, enough, level) < POWER:
        few, enough = enough, 2 * enough
    while enough - few > 1:
        middle = (few + enough) // 2
        suffices = power_of_mcnemar(wanted, middle, level) >= POWER
        few, enough = (few, middle) if suffices else (middle, enough)
    return enough
