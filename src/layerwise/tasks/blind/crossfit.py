"""Cross-fitting: a rule is chosen on some of the items and measured on the others.

What is chosen among many, be it a rule or a guesser, is so never measured where it was chosen.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool

from .guessers import Fitted, Guesser
from .options import Options


def cross_fitted(options: Options, guesser: Guesser) -> Fitted:
    """A guesser on all items, each half with the rule that was best on the other."""
    right, rules = np.zeros(len(options.items), dtype=bool), []
    for half in (0, 1):
        test = options.quarter % 2 == half
        fitted = guesser.fitted(~test)
        right[test] = fitted.right[test]
        rules.append(fitted.rule)
    return Fitted(right, "; ".join(dict.fromkeys(rules)))


def best_of(
    options: Options, guessers: Sequence[Guesser]
) -> tuple[Bool[np.ndarray, " items"], tuple[tuple[str, str], ...]]:
    """For each quarter the guesser that is best on the three others, where it is cross-fitted, too.

    Returns:
        Right or wrong for all items, and the guesser's name and rule for each quarter.
    """
    right, rules = np.zeros(len(options.items), dtype=bool), []
    for quarter in range(4):
        test = options.quarter == quarter
        best = max(guessers, key=lambda one: _right_within(options, one, ~test))
        fitted = best.fitted(~test)
        right[test] = fitted.right[test]
        rules.append((best.name, fitted.rule))
    return right, tuple(rules)


def best_afterwards(
    options: Options, guessers: Sequence[Guesser]
) -> tuple[Bool[np.ndarray, " items"], tuple[tuple[str, str], ...]]:
    """The guesser that is right most often when each quarter's rule is chosen on the others.

    It is chosen by what it does on all items, so that it looks better than it is, where there are
    few items by a lot; but no guesser that was tried is better.

    Returns:
        As ``best_of``.
    """

    def crossed(
        guesser: Guesser,
    ) -> tuple[Bool[np.ndarray, " items"], tuple[tuple[str, str], ...]]:
        right, rules = np.zeros(len(options.items), dtype=bool), []
        for quarter in range(4):
            test = options.quarter == quarter
            fitted = guesser.fitted(~test)
            right[test] = fitted.right[test]
            rules.append((guesser.name, fitted.rule))
        return right, tuple(rules)

    return max(map(crossed, guessers), key=lambda found: int(found[0].sum()))


def _right_within(options: Options, guesser: Guesser, train: Bool[np.ndarray, " items"]) -> int:
    """How many of ``train`` a guesser gets right, each of its quarters fitted on the others."""
    total = 0
    for quarter in range(4):
        test = train & (options.quarter == quarter)
        if test.any():
            total += int(guesser.fitted(train & ~test).right[test].sum())
    return total
