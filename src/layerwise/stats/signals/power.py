"""Power of a number of items: the smallest loss found, and the fewest answers needed."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from layerwise.errors import UserError

from .signal import LEVEL as SIGNAL_LEVEL

LEVEL = 0.05
# Share of samples in which a loss is to be found, and of answers that a change gains for nothing,
# unless it is known: on SmolLM2-135M layers that do not matter flip 10 % and more of the answers.
POWER, GAINED = 0.8, 0.05
# Share of the runs in which a page says that a loss is found.
HALF = 0.5
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
    """The smallest loss of accuracy that so many items establish in 8 of 10 samples."""
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
    """Number of independent answers that tell as much as several about each item (Kish 1965)."""
    return n_answers / (1 + (n_answers / n_items - 1) * ALIKE) if n_items else 0.0


def smallest_loss(answers: float, n_tests: int, power: float = POWER) -> float | None:
    """The smallest loss of a layer that a capability's test establishes in 8 of 10 runs."""
    # The test flips the signs of whole items; of independent answers it is McNemar's. Holm's first
    # step divides the level by all tests, so that this is an upper bound where many layers matter.
    return detectable_loss(int(answers), LEVEL / max(n_tests, 1), GAINED, power)


@lru_cache(maxsize=1024)
def answers_needed(loss: float, n_tests: int, power: float = POWER) -> int:
    """Number of independent answers that ``smallest_loss`` needs for a loss above 0, in 0..1."""
    top = 1 - 2 * GAINED
    level, wanted = LEVEL / max(n_tests, 1), min(loss, top)
    few, enough = 0, 1
    while power_of_mcnemar(wanted, enough, level) < power:
        few, enough = enough, 2 * enough
    while enough - few > 1:
        middle = (few + enough) // 2
        suffices = power_of_mcnemar(wanted, middle, level) >= power
        few, enough = (few, middle) if suffices else (middle, enough)
    return enough


def least_change(n_tests: int = 1, level: float = LEVEL) -> int:
    """Items that must change, all one way, for McNemar's exact test to be significant.

    With so many items of which b change one way and none the other, p is 2 / 2^b. Of several tests
    that is held to the first step of Holm's correction: where other tests are significant, a few
    items less may do.

    Example:
        >>> least_change(), least_change(n_tests=30)
        (6, 11)
    """
    if n_tests < 1:
        raise UserError(f"There is at least one test, not {n_tests}.")
    changed = 1
    while 2 * 0.5**changed * n_tests >= level:
        changed += 1
    return changed


def least_right(n: int, chance: float, n_tests: int = 1, level: float = LEVEL) -> int | None:
    """Right answers that the one-sided exact binomial test tells from guessing.

    Example:
        >>> least_right(60, 0.25), least_right(4, 0.5)
        (22, None)
    """
    from scipy.stats import binom

    if n_tests < 1:
        raise UserError(f"There is at least one test, not {n_tests}.")
    for right in range(n + 1):
        if n_tests * binom.sf(right - 1, n, chance) < level:
            return right
    return None


def items_for_any_signal(chance: float, n_tests: int = 1) -> int | None:
    """Items that must all be right for the exact binomial test to exclude guessing.

    Of n items all are right by guessing with probability chance ** n, which must be below the
    level of signal at the first step of Holm's correction. None where guessing is always right.

    Example:
        >>> items_for_any_signal(0.25), items_for_any_signal(0.5, n_tests=30)
        (3, 11)
    """
    if chance >= 1:
        return None
    n = 1
    while n_tests * chance**n >= SIGNAL_LEVEL:
        n += 1
    return n


def items_for_signal(
    accuracy: float, chance: float, controls: list[float], n_cells: int
) -> int | None:
    """About how many items show signal in 8 of 10 samples, if accuracies stay as they are."""
    # The normal approximation of the binomial test against chance, with its continuity correction
    # (Fleiss, Tytun and Ury 1980, Biometrics 36), and of the difference from each measured control,
    # at the level of Holm's first step; the largest number counts. It is rounded up to two digits.
    from scipy.stats import norm

    if accuracy <= max([chance, *controls]):
        return None
    level, power = (float(norm.isf(tail)) for tail in (SIGNAL_LEVEL / max(n_cells, 1), 1 - POWER))
    own = accuracy * (1 - accuracy)
    lead = accuracy - chance
    plain = ((level * math.sqrt(chance * (1 - chance)) + power * math.sqrt(own)) / lead) ** 2
    wanted = [plain / 4 * (1 + math.sqrt(1 + 2 / (plain * lead))) ** 2 if plain else 0.0]
    wanted += [
        (level + power) ** 2 * (own + control * (1 - control)) / (accuracy - control) ** 2
        for control in controls
    ]
    # So many items must differ before an exact paired test can reach the level at all.
    differ = math.log2(max(n_cells, 1) / SIGNAL_LEVEL)
    wanted += [differ / (accuracy - control) for control in controls]
    n = max(math.ceil(max(wanted)), 1)
    step = 10 ** max(len(str(n)) - 2, 0)
    return -(-n // step) * step
