"""Means over items and over draws of few-shot examples, both of which are samples.

All items are asked with the same draws, so that what a draw does to one item it does to all: few
draws say little of how others would have been, however many items there are.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from .clusters import Clusters, mean_errors

_STEPS = 60
# Below this a p-value is 0 for all that is done with it; half of it is tested on either side.
_LEAST_LOG_P = -300.0


class CrossedMeans(NamedTuple):
    """Means over items and draws, by column, with the parts of their squared errors."""

    mean: Float[np.ndarray, " columns"]  # over both
    items: Float[np.ndarray, " columns"]  # from the spread of items, each a mean over draws
    draws: Float[np.ndarray, " columns"]  # from the spread of draws, each a mean over items
    shared: Float[np.ndarray, " columns"]  # the part of both that is neither an item's nor a draw's
    n_items: int  # clusters of items
    n_draws: int

    def half_widths(
        self, tail: Float[np.ndarray, " columns"] | float
    ) -> Float[np.ndarray, " columns"]:
        """How far bounds lie from the mean that err with this probability at each end."""
        # Each part of the squared error has its own quantile of Student's t (Howe 1974, J. Am.
        # Stat. Assoc. 69, for a sum of two means), so that the few draws never borrow the degrees
        # of freedom of the items; what items and draws share is taken off once. It is never less
        # than from items alone.
        from scipy.special import stdtrit

        of_items = stdtrit(max(self.n_items - 1, 1), np.asarray(tail)) ** 2
        of_draws = stdtrit(max(self.n_draws - 1, 1), np.asarray(tail)) ** 2
        alone = np.maximum(self.items - self.shared, 0.0)
        crossed = alone * of_items + self.draws * of_draws
        return np.sqrt(np.maximum(self.items * of_items, crossed))

    def p_values(self, null: float = 0.0) -> Float[np.ndarray, " columns"]:
        """Two-sided p-values: the least level at which bounds leave the hypothesis out."""
        away = np.abs(self.mean - null)
        low, high = np.full((2, len(away)), _LEAST_LOG_P)
        high[:] = np.log(0.5)
        for _ in range(_STEPS):
            middle = (low + high) / 2
            outside = away > self.half_widths(np.exp(middle))
            high, low = np.where(outside, middle, high), np.where(outside, low, middle)
        p = np.where(high <= _LEAST_LOG_P + 1e-6, 0.0, 2 * np.exp(high))
        return np.where(away > 1e-12, p, 1.0)

    def upper_p_values(self, null: float = 0.0) -> Float[np.ndarray, " columns"]:
        """One-sided p-values of "the mean is no larger than this"."""
        half = self.p_values(null) / 2
        return np.where(self.mean > null, half, 1 - half)


def crossed_means(
    values: Float[np.ndarray, "draws items columns"], clusters: Clusters
) -> CrossedMeans:
    """Means of a table of items by draws, whose rows and columns both are samples."""
    n_draws, n_items, _ = values.shape
    mean = values.mean(axis=(0, 1))
    of_item, of_draw = values.mean(axis=0), values.mean(axis=1)
    rest = values - of_item - of_draw[:, None] + mean
    summed = np.stack([clusters.sums(part) for part in rest])
    n = clusters.n
    shared = (summed**2).sum(axis=(0, 1)) * n / max(n - 1, 1)
    return CrossedMeans(
        mean,
        np.nan_to_num(mean_errors(of_item, clusters)) ** 2,
        of_draw.var(axis=0, ddof=1) / n_draws,
        shared / (n_draws - 1) / n_items**2 / n_draws,
        n,
        n_draws,
    )
