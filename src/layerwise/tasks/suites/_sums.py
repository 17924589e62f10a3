"""Sums with a given answer, and sets of answers that are fit to be each other's options.

The suites made of them are ``arithmetic`` and ``word_problems``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from itertools import combinations_with_replacement

import numpy as np

from layerwise.tasks.suites._building import draw

_OPTIONS = 4


def span(digits: int) -> tuple[int, int]:
    """The numbers of so many digits, from the first up to before the second."""
    return (0, 10) if digits == 1 else (10 ** (digits - 1), 10**digits)


def value(numbers: Sequence[int], sign: str) -> int:
    """The sum, or the first number less the others."""
    return sum(numbers) if sign == "+" else numbers[0] - sum(numbers[1:])


def written(numbers: Sequence[int], sign: str) -> str:
    """A sum as the fact that it is: 3 + 4 and 4 + 3 are one."""
    return f" {sign} ".join(map(str, sorted(numbers, reverse=sign == "-")))


def pair(rng: np.random.Generator, digits: int, sign: str, answer: int) -> list[int] | None:
    """Two numbers of so many digits whose sum or difference is the answer, if there are any."""
    low, high = span(digits)
    return pair_between(rng, low, high - 1, sign, answer)


def pair_between(
    rng: np.random.Generator, low: int, high: int, sign: str, answer: int
) -> list[int] | None:
    """Two numbers from ``low`` to ``high`` whose sum or difference is the answer, if any are."""
    if sign == "+":
        first, last = max(low, answer - high), min(high, answer - low)
    else:
        first, last = low + answer, high
    if answer < 0 or first > last:
        return None
    summand = int(rng.integers(first, last + 1))
    return [summand, answer - summand] if sign == "+" else [summand, summand - answer]


def chain(rng: np.random.Generator, terms: int, total: int) -> list[int] | None:
    """So many numbers from 1 to 9 with that sum, if there are any, in random order."""
    rows = _chains(terms).get(total)
    return draw(rng, rows[int(rng.integers(len(rows)))], terms) if rows else None


def near(
    rng: np.random.Generator,
    start: int,
    possible: Callable[[int], bool],
    step: int | None = None,
) -> list[int]:
    """``start`` and three values at most four steps away from it."""
    # A step is 1, and 10 or 100 for larger numbers. Values that begin with different digits are
    # preferred, then those that are as long: what reads only the first token can use them.
    step = step or (1 if start < 20 else 10 if start < 200 else 100 if start < 2000 else 1000)
    offsets = [sign * step * size for size in (1, 2, 3, 4) for sign in (1, -1)]
    values = [start + offset for offset in draw(rng, offsets, 8)]
    return _apart(start, [number for number in values if number >= 0 and possible(number)])


def spread_out(rng: np.random.Generator, start: int, values: Sequence[int]) -> list[int]:
    """``start`` and three of the values, which begin with different digits as far as possible."""
    return _apart(start, [number for number in draw(rng, values, len(values)) if number != start])


def _apart(start: int, values: Sequence[int]) -> list[int]:
    """``start`` and the first values whose first digits are new, before any others."""
    chosen, left = [start], list(values)
    while left and len(chosen) < _OPTIONS:
        begun, length = {str(number)[0] for number in chosen}, len(str(start))
        best = min(left, key=lambda number: (str(number)[0] in begun, len(str(number)) != length))
        chosen.append(best)
        left.remove(best)
    return chosen


@cache
def _chains(terms: int) -> dict[int, list[tuple[int, ...]]]:
    """All rows of so many numbers from 1 to 9, whatever their order, by their sum."""
    rows: dict[int, list[tuple[int, ...]]] = {}
    for row in combinations_with_replacement(range(1, 10), terms):
        rows.setdefault(sum(row), []).append(row)
    return rows
