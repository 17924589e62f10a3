"""Cross-fitting: a rule is chosen on one half of the items and measured on the other one.

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


def best_of(options: Options, guessers: Sequence[Guesser]) -> tuple[Fitted, tuple[str, str]]:
    """For each half the guesser that is best on the other one, where it is cross-fitted, too.

    Returns:
        Right or wrong for all items, and the guesser's name for each half.
    """
    right, rules, names = np.zeros(len(options.items), dtype=bool), [], []
    for half in (0, 1):
        test = options.quarter % 2 == half
        best = max(guessers, key=lambda one: _right_within(options, one, ~test))
        fitted = best.fitted(~test)
        right[test] = fitted.right[test]
        rules.append(fitted.rule)
        names.append(best.name)
    return Fitted(right, "; ".join(rules)), (names[0], names[1])


def _right_within(options: Options, guesser: Guesser, train: Bool[np.ndarray, " items"]) -> int:
    """How many of ``train`` a guesser gets right, each of its halves fitted on the other."""
    total = 0
    for half in (0, 1):
        test = train & (options.quarter // 2 == half)
        total += int(guesser.fitted(train & ~test).right[test].sum())
    return total
