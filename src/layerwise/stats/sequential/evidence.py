"""Log evidence against a hypothesis after every item, which holds whenever one stops.

Each function returns the logarithm of an e-process: it starts at 1, and under its null its
expectation is at most 1 at any time at which one stops. So the chance that it ever reaches 1 / p
is at most p (Ville 1939; Ramdas et al. 2023, Stat. Sci. 38, sections 2 and 3). Items that ask for
the same thing are bet on as one, a *unit*; rows of the result are units, in the order of the items.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from jaxtyping import Float, Int

from layerwise.stats.items.clusters import Clusters
from layerwise.stats.share_tests.equivalence import N_BETS

LogEvidence = Float[np.ndarray, "units columns"]
# Share of the capital that is put on the largest bet, which wins soonest where no item loses at
# all; the rest is spread evenly over the bets of the fixed test.
ON_LARGEST = 1 / 3
# Bets on so many numbers are worked on at once: 32 MB of floats.
_AT_ONCE = 2**22
_ROUNDING = 1e-9


def mean_above_evidence(
    values: Float[np.ndarray, "items columns"],
    bound: float | Float[np.ndarray, " columns"],
    low: float,
    clusters: Clusters | None = None,
) -> LogEvidence:
    """Log evidence against "the mean is ``bound`` or less", of values never below ``low``.

    The null is: given all earlier units, the sum of ``value - bound`` over a unit has an
    expectation of 0 or less. Nothing else is assumed of the distribution. The evidence is a mean
    over bets b of prod (1 + b (value - bound)), 0 < b <= 1 / (bound - low) (Waudby-Smith and
    Ramdas 2024, J. R. Stat. Soc. B 86, section 4; arXiv:2010.09686). A third of the capital is on
    the largest bet. A unit's sum is divided by the size of the largest unit, which is known before
    anything is answered.

    Args:
        values: one row per item, in the order in which they are asked.
        bound: the mean under the null; one for all columns, or one of each.
        low: the least value that an item can have, below ``bound``.
        clusters: which items ask for the same thing; None if each stands by itself.

    Returns:
        A row per unit.

    Raises:
        ValueError: if a value is nan or below ``low``, or ``low`` is not below ``bound``.
    """
    most_lost = np.asarray(bound, dtype=float) - low
    if not (most_lost > 0).all():
        raise ValueError(f"The bound is {bound}: expected more than the least value, {low:g}.")
    if not (values >= low - _ROUNDING).all():
        raise ValueError(
            f"Some values are nan or below {low:g}: expected bounded ones; clip them, or leave out "
            "what has none."
        )
    excess = values - bound
    if clusters is not None and not clusters.are_items:
        excess = clusters.sums(excess) / clusters.sizes.max()
    # as a share of what can be lost; rounding of a sum must not lose more
    excess = np.maximum(excess / most_lost, -1.0)
    bets = np.arange(1, N_BETS + 1) / N_BETS
    evidence = np.empty_like(excess)
    step = max(1, _AT_ONCE // (N_BETS * max(len(excess), 1)))
    for start in range(0, excess.shape[1], step):
        some = slice(start, start + step)
        with np.errstate(divide="ignore"):  # the largest bet loses all on the least value
            growth = np.log1p(bets[:, None, None] * excess[None, :, some]).cumsum(axis=1)
        peak = growth.max(axis=0)
        capital = np.exp(growth - peak)
        mean = (1 - ON_LARGEST) * capital.mean(axis=0) + ON_LARGEST * capital[-1]
        evidence[:, some] = peak + np.log(mean)
    return evidence


def mean_below_evidence(
    values: Float[np.ndarray, "items columns"],
    bound: float | Float[np.ndarray, " columns"],
    high: float,
    clusters: Clusters | None = None,
) -> LogEvidence:
    """Log evidence against "the mean is ``bound`` or more", of values never above ``high``.

    The mirror image of ``mean_above_evidence``. Beside the bets of the fixed test
    (``share_tests.equivalence.log_evidence_below``) a third of the capital is on the largest one.

    Args:
        values: one row per item, in the order in which they are asked.
        bound: the mean under the null; one for all columns, or one of each.
        high: the largest value that an item can have, above ``bound``.
        clusters: which items ask for the same thing; None if each stands by itself.
    """
    return mean_above_evidence(-values, -bound, -high, clusters)


def majority_evidence(
    net: Int[np.ndarray, "items columns"], clusters: Clusters | None = None
) -> LogEvidence:
    """Log evidence against "of what changes, no more is lost than gained": McNemar's question.

    The null is: given all earlier units, and given that a unit's net change is not 0, it is a loss
    with a probability of at most 1/2. So the evidence is the likelihood ratio of the lost and
    gained units, averaged over the probability p of a loss, and exact: p has Jeffreys' prior on
    (1/2, 1), which is the half of Krichevsky and Trofimov's mixture (1981, IEEE Trans. Inf. Theory
    27) that bets on losses. A unit has one vote, however many of its items change.

    Args:
        net: 1 where an item is lost, -1 where it is gained, or sums of these over draws.
        clusters: which items ask for the same thing; None if each stands by itself.
    """
    votes = net if clusters is None else clusters.sums(net)
    lost, gained = ((sign * votes > 0).cumsum(axis=0) for sign in (1, -1))
    return _log_mixture(len(votes))[lost, gained]


@lru_cache(maxsize=64)
def _log_mixture(n: int) -> Float[np.ndarray, "lost gained"]:
    """Logs of 2^(b + c) times the mean of p^b (1 - p)^c over Jeffreys' prior on (1/2, 1)."""
    from scipy.special import betaincc, betaln

    b, c = np.ogrid[: n + 1, : n + 1]
    above_half = betaincc(b + 0.5, c + 0.5, 0.5)
    with np.errstate(divide="ignore"):  # where nearly all are gained nothing is left
        table = (b + c + 1) * np.log(2) - np.log(np.pi) + betaln(b + 0.5, c + 0.5)
        table = table + np.log(above_half)
    table.flags.writeable = False
    return table
