"""Contrasts of losses between groups of layers, each with how far every item moves it.

A contrast is a number made of all items, such as the share of the score that early layers cost
minus that of late ones. Two contrasts of the same items are subtracted item by item.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Shaped

from layerwise.stats.items.clusters import Clusters
from layerwise.stats.pools import Pool


@dataclass(frozen=True)
class Contrast:
    """An estimate over items, with a normal error.

    Attributes:
        estimate: its value, in the unit of what it is made of.
        moves: how far each independent item moves it; their squares sum to its variance.
        least: the smallest standard error that so few items can show.
    """

    estimate: float
    moves: Float[np.ndarray, " clusters"]
    least: float = 0.0

    @property
    def n(self) -> int:
        """Number of independent items."""
        return len(self.moves)

    @property
    def error(self) -> float:
        """Standard error."""
        return max(float(np.sqrt((self.moves**2).sum())), self.least)

    def minus(self, other: Contrast) -> Contrast:
        """The difference from a contrast of the same items, paired by item."""
        least = float(np.hypot(self.least, other.least))
        return Contrast(self.estimate - other.estimate, self.moves - other.moves, least)

    def bounds(self, level: float = 0.95) -> tuple[float, float]:
        """Student's interval (Student 1908, Biometrika 6)."""
        from scipy.special import stdtrit

        if self.n < 2:
            return np.nan, np.nan
        reach = float(stdtrit(self.n - 1, (1 + level) / 2)) * self.error
        return self.estimate - reach, self.estimate + reach

    def p_above(self, bound: float = 0.0) -> float:
        """One-sided p-value of "it is ``bound`` or less"; 1 of a single item."""
        from scipy.special import stdtr

        if self.n < 2:
            return 1.0
        if self.error == 0:
            return float(self.estimate <= bound)
        return float(stdtr(self.n - 1, (bound - self.estimate) / self.error))

    def p_below(self, bound: float = 0.0) -> float:
        """One-sided p-value of "it is ``bound`` or more"; 1 of a single item."""
        return Contrast(-self.estimate, -self.moves, self.least).p_above(-bound)

    def p_either_side(self, bound: float = 0.0) -> float:
        """P-value of "it is within ``bound`` of 0", two-sided; 1 of a single item."""
        return min(1.0, 2 * min(self.p_above(bound), self.p_below(-bound)))

    def p_within(self, bound: float) -> float:
        """P-value of "it is ``bound`` or more away from 0": two one-sided tests.

        Schuirmann 1987, J. Pharmacokinet. Biopharm. 15.
        """
        return max(self.p_below(bound), self.p_above(-bound))


def layer_weights(
    layers: Int[np.ndarray, " layers"], more: Sequence[int], less: Sequence[int] = ()
) -> Float[np.ndarray, " layers"]:
    """Weights of "mean over some layers minus mean over others", a column per layer."""
    weights = np.zeros(len(layers))
    for group, sign in ((more, 1.0), (less, -1.0)):
        chosen = np.isin(layers, list(group))
        if chosen.any():
            weights += sign * chosen / chosen.sum()
    return weights


def share_contrast(pool: Pool, weights: Float[np.ndarray, " layers"]) -> Contrast:
    """Weighted sum over layers of the share of the score that each of them costs."""
    share, moves = pool.shares(pool.loss @ weights[:, None])
    return Contrast(float(share[0]), moves[:, 0], pool.least_error * float(np.abs(weights).max()))


def centre_contrast(pool: Pool, without: Collection[int] = ()) -> Contrast | None:
    """Mean layer of what is lost, each layer weighted by its loss; None if nothing is lost.

    Args:
        pool: answers without each layer.
        without: layers that do not count, such as those that other capabilities need as well.
    """
    loss = pool.loss[:, ~np.isin(pool.layers, list(without))]
    layers = pool.layers[~np.isin(pool.layers, list(without))].astype(float)
    total = loss.sum()
    if total <= 0:
        return None
    centre = float((loss @ layers).sum() / total)
    # The influence of an answer on a ratio of sums.
    away = pool.clusters.sums((loss @ layers - centre * loss.sum(axis=1)) / total)
    n = pool.clusters.n
    # Items that all agree have no spread to see: one cluster might lose at the farthest layer.
    least = float(np.abs(layers - centre).max() * pool.clusters.sizes.max() / total)
    return Contrast(centre, away * np.sqrt(n / max(n - 1, 1)), least)


def ratio_contrast(
    part: Float[np.ndarray, " answers"], whole: Float[np.ndarray, " answers"], clusters: Clusters
) -> Contrast:
    """Sum of one value over answers, divided by the sum of another, which is not 0."""
    total, n = whole.sum(), clusters.n
    ratio = float(part.sum() / total)
    # The influence of an answer on a ratio of sums.
    away = clusters.sums((part - ratio * whole) / total)
    return Contrast(ratio, away * np.sqrt(n / max(n - 1, 1)))


def unpaired_difference(first: Contrast, second: Contrast) -> Contrast:
    """The difference of contrasts of other items."""
    least = float(np.hypot(first.least, second.least))
    moves = np.concatenate([first.moves, -second.moves])
    return Contrast(first.estimate - second.estimate, moves, least)


def mean_contrast(values: Shaped[np.ndarray, " answers"], clusters: Clusters) -> Contrast:
    """Mean over answers; those of a cluster move it together."""
    n = clusters.n
    away = clusters.sums((values - values.mean()) / len(values))
    return Contrast(float(values.mean()), away * np.sqrt(n / max(n - 1, 1)))


def at_least_p_value(p_values: Float[np.ndarray, " tests"], n: int) -> float:
    """P-value of "fewer than ``n`` of the hypotheses are false", whatever their dependence.

    The partial conjunction test made of Bonferroni's (Benjamini and Heller 2008, Biometrics 64).
    """
    if not 1 <= n <= len(p_values):
        return 1.0
    return float(min(1.0, (len(p_values) - n + 1) * np.sort(p_values)[n - 1]))
