"""Curves of measured seconds over sizes: how they are read, and which size is worth its memory.

What is measured is in ``_bench``; what a sweep takes by it is in ``cost``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np

# Sizes (tokens, or rows) and the median seconds for so many at once, in ascending order.
Curve = tuple[tuple[int, float], ...]

# At least so many tokens are pushed at once; a larger number must be faster per token by more
# than this share to be worth its memory.
FEWEST = 256
WORTHWHILE = 0.03


def growing(points: Sequence[tuple[int, float]]) -> Curve:
    """A curve on which larger sizes never take less time, whatever was measured."""
    seconds = np.maximum.accumulate([seconds for _, seconds in points]).tolist()
    return tuple((size, s) for (size, _), s in zip(points, seconds, strict=True))


def seconds_at(curve: Curve, size: float | int) -> float:
    """Seconds for a size: interpolated; that of the smallest below it, in proportion above."""
    sizes, seconds = zip(*curve, strict=True)
    if size > sizes[-1]:
        return seconds[-1] * size / sizes[-1]
    return float(np.interp(size, sizes, seconds))


def worthwhile(block: Curve) -> int:
    """The smallest size, not below ``FEWEST``, that is about as fast per token as the fastest."""
    sizes = [(size, seconds) for size, seconds in block if size >= FEWEST] or [block[-1]]
    best = min(seconds / size for size, seconds in sizes)
    fastest = (size for size, seconds in sizes if seconds <= size * best * (1 + WORTHWHILE))
    return max(FEWEST, next(fastest))


def share(more_seconds: float, more_work: float | int) -> float:
    """Seconds per unit of work; 0 where there was no more work, or none that could be told."""
    return max(0.0, more_seconds / more_work) if more_work > 0 else 0.0


def check_measured(
    tokens_at_once: int, curves: Iterable[Curve], rates: Iterable[float], flop_per_second: float
) -> None:
    """Refuse figures that no measuring gives.

    Raises:
        ValueError: if a size is not positive, seconds do not grow with it, or a curve has one
            point only.
    """
    good = (
        tokens_at_once >= 1
        and all(
            len(curve) > 1  # from one point nothing can be told of larger sizes
            and min(curve[0]) > 0
            and all(a[0] < b[0] and a[1] <= b[1] for a, b in pairwise(curve))
            for curve in curves
        )
        and all(0 <= rate < math.inf for rate in rates)
        and 0 < flop_per_second < math.inf
    )
    if not good:
        raise ValueError("A calibration needs positive seconds that grow with the size.")
