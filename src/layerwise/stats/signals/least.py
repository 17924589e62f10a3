"""The least that exact tests can establish: what "not significant" leaves open.

The tests themselves are in ``inference`` and ``signal``.
"""

from __future__ import annotations

from layerwise.errors import UserError

ALPHA = 0.05


def least_change(n_tests: int = 1, level: float = ALPHA) -> int:
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


def least_right(n: int, chance: float, n_tests: int = 1, level: float = ALPHA) -> int | None:
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
