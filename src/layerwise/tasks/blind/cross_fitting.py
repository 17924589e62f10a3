"""Cross-fitting: every item is guessed by a rule that was fitted on other items."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from .guessers import Guesser
from .options import TaskOptions


class CrossFit(NamedTuple):
    """Right guesses of all items, each by a rule that was fitted on other items."""

    right: Bool[np.ndarray, " items"]
    rules: tuple[tuple[str, str], ...]  # for each part of the items, the guesser's name and rule


def cross_fit_halves(options: TaskOptions, guesser: Guesser) -> CrossFit:
    """One guesser on all items, each half with the rule that was fitted on the other."""
    halves = [options.quarter % 2 == half for half in (0, 1)]
    return _cross_fit(len(options.items), halves, lambda _: guesser)


def best_per_quarter(options: TaskOptions, guessers: Sequence[Guesser]) -> CrossFit:
    """For each quarter, the guesser that is best on the other three (itself cross-fitted)."""
    counts = np.array([_n_right_in_other_quarters(options, guesser) for guesser in guessers])
    best = counts.argmax(axis=0)
    return _cross_fit(len(options.items), _quarters(options), lambda at: guessers[int(best[at])])


def best_overall(
    options: TaskOptions, guessers: Sequence[Guesser], with_weights: Sequence[Guesser]
) -> CrossFit:
    """The guesser that is right most often: a rule on all items, weights on other quarters."""
    # It is chosen by what it does on all items, and so is its rule. So it looks better than it is,
    # where there are few items by a lot; but whoever goes by any of these rules is right no more
    # often. Weights that are fitted on all items may know each answer by heart.
    every = [CrossFit(*_fit_all(options, guesser)) for guesser in guessers]
    every += [
        _cross_fit(len(options.items), _quarters(options), lambda _, one=guesser: one)
        for guesser in with_weights
    ]
    return max(every, key=lambda fit: int(fit.right.sum()))


def _fit_all(
    options: TaskOptions, guesser: Guesser
) -> tuple[Bool[np.ndarray, " items"], tuple[tuple[str, str], ...]]:
    right, rule = guesser.fit(np.ones(len(options.items), dtype=bool))
    return right, ((guesser.name, rule),)


def _cross_fit(
    n_items: int,
    parts: Iterable[Bool[np.ndarray, " items"]],
    guesser_of: Callable[[int], Guesser],
) -> CrossFit:
    """Each part of the items by the rule that its guesser fits on all others."""
    right, rules = np.zeros(n_items, dtype=bool), []
    for number, part in enumerate(parts):
        guesser = guesser_of(number)
        own, rule = guesser.fit(~part)
        right[part] = own[part]
        rules.append((guesser.name, rule))
    return CrossFit(right, tuple(rules))


def _quarters(options: TaskOptions) -> list[Bool[np.ndarray, " items"]]:
    return [options.quarter == quarter for quarter in range(4)]


def _n_right_in_other_quarters(
    options: TaskOptions, guesser: Guesser
) -> Int[np.ndarray, " quarters"]:
    """For each quarter, right guesses in the other three, each fitted without both quarters."""
    counts, quarters = np.zeros(4, dtype=int), _quarters(options)
    for first, second in combinations(range(4), 2):
        right, _ = guesser.fit(~(quarters[first] | quarters[second]))
        counts[[first, second]] += [right[quarters[second]].sum(), right[quarters[first]].sum()]
    return counts
