"""Confidence sequences: intervals of a mean that hold after every item, all of them together.

They hold the means that no bet has rejected so far, each side at half of the error (Waudby-Smith
and Ramdas 2024, J. R. Stat. Soc. B 86, section 4, with a mixture of fixed bets). So they need
values in a range that is known beforehand: accuracies, or nats of which each item counts for no
more than a limit. Of unbounded nats no interval of the mean holds for every distribution.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int

from layerwise.stats.items.clusters import Clusters

from .evidence import LogEvidence, mean_above_evidence, mean_below_evidence

# Bounds are rounded outwards to such a part of the range.
N_STEPS = 200
LEVEL = 0.95
# Log evidence against means at so many steps from an end of the range, and further towards it.
Against = Callable[[Int[np.ndarray, " columns"]], LogEvidence]


def confidence_sequence(
    values: Float[np.ndarray, "items columns"],
    low: float,
    high: float,
    clusters: Clusters | None = None,
    level: float = LEVEL,
) -> tuple[Float[np.ndarray, "units columns"], Float[np.ndarray, "units columns"]]:
    """Lower and upper bounds of each column's mean after every unit.

    All bounds of a column cover its mean together, with a probability of ``level``.

    Args:
        values: one row per item, in the order in which they are asked, within the range.
        low: the least value that an item can have.
        high: the largest one.
        clusters: which items ask for the same thing; None if each stands by itself.
        level: coverage over all times together, of each column by itself.

    Returns:
        A row per unit; bounds only ever come closer.
    """
    least, step = np.log(2 / (1 - level)), (high - low) / N_STEPS
    from_low, from_high = (
        _steps_of_all_times(against, values.shape[1], least)
        for against in _against_both_ends(values, low, high, clusters)
    )
    return low + from_low * step, high - from_high * step


def confidence_bounds(
    values: Float[np.ndarray, "items columns"],
    units: Int[np.ndarray, " columns"],
    low: float,
    high: float,
    clusters: Clusters | None = None,
    level: float = LEVEL,
) -> tuple[Float[np.ndarray, " columns"], Float[np.ndarray, " columns"]]:
    """Bounds of ``confidence_sequence`` after so many units of each column, sooner.

    Args:
        values: one row per item, in the order in which they are asked, within the range.
        units: after how many units, 1 or more, each column's bounds are wanted.
        low: the least value that an item can have.
        high: the largest one.
        clusters: which items ask for the same thing; None if each stands by itself.
        level: coverage over all times together, of each column by itself.
    """
    least, step = np.log(2 / (1 - level)), (high - low) / N_STEPS
    from_low, from_high = (
        _steps_by_bisection(against, units, least)
        for against in _against_both_ends(values, low, high, clusters)
    )
    return low + from_low * step, high - from_high * step


def _against_both_ends(
    values: Float[np.ndarray, "items columns"], low: float, high: float, clusters: Clusters | None
) -> tuple[Against, Against]:
    step = (high - low) / N_STEPS
    return (
        lambda steps: mean_above_evidence(values, low + steps * step, low, clusters),
        lambda steps: mean_below_evidence(values, high - steps * step, high, clusters),
    )


# A mean further inwards has less evidence against it at every time. So if a mean is rejected, all
# behind it are, and the true one is rejected whenever the bound has passed it.
def _steps_of_all_times(
    against: Against, n_columns: int, least: float
) -> Float[np.ndarray, "units columns"]:
    """Number of steps from an end of the range that are rejected so far, after every unit."""
    rejected = _so_far(against(np.ones(n_columns, dtype=int))) >= least
    steps = rejected.astype(float)
    for number in range(2, N_STEPS + 1):
        if not rejected.any():
            break
        rejected = _so_far(against(np.full(n_columns, number))) >= least
        steps[rejected] = number
    return steps


def _steps_by_bisection(
    against: Against, units: Int[np.ndarray, " columns"], least: float
) -> Float[np.ndarray, " columns"]:
    """The same after so many units of each column."""
    rejected, kept = np.zeros(len(units), dtype=int), np.full(len(units), N_STEPS + 1)
    while (kept - rejected > 1).any():
        middle = np.maximum((rejected + kept) // 2, 1)
        reached = _so_far(against(middle))[units - 1, np.arange(len(units))] >= least
        rejected, kept = np.where(reached, middle, rejected), np.where(reached, kept, middle)
    return rejected.astype(float)


def _so_far(evidence: LogEvidence) -> LogEvidence:
    return np.maximum.accumulate(evidence, axis=0)
