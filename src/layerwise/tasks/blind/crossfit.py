"""Cross-fitting: a rule is chosen on some of the items and measured on the others.

What is chosen among many, be it a rule or a guesser, is so never measured where it was chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from jaxtyping import Bool, Int

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
    """For each quarter, the guesser that is best on the other three (itself cross-fitted)."""
    right, rules = np.zeros(len(options.items), dtype=bool), []
    counts = [_right_elsewhere(options, guesser) for guesser in guessers]
    for quarter in range(4):
        test = options.quarter == quarter
        best = guessers[int(np.argmax([count[quarter] for count in counts]))]
        fitted = best.fitted(~test)
        right[test] = fitted.right[test]
        rules.append((best.name, fitted.rule))
    return right, tuple(rules)


def best_afterwards(
    options: Options, guessers: Sequence[Guesser]
) -> tuple[Bool[np.ndarray, " items"], tuple[tuple[str, str], ...]]:
    """The guesser that is right most often when each quarter's rule is chosen on the others."""
    # It is chosen by what it does on all items, so that it looks better than it is, where there are
    # few items by a lot; but no guesser that was tried is better.

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

    return max(map(crossed, guessers), key=lambda outcome: int(outcome[0].sum()))


def _right_elsewhere(options: Options, guesser: Guesser) -> Int[np.ndarray, " quarters"]:
    """For each quarter how many of the others' items are right, each fitted without both."""
    counts = np.zeros(4, dtype=int)
    for pair in combinations(range(4), 2):
        left_out = [options.quarter == quarter for quarter in pair]
        right = guesser.fitted(~(left_out[0] | left_out[1])).right
        counts[list(pair)] += [right[left_out[1]].sum(), right[left_out[0]].sum()]
    return counts
