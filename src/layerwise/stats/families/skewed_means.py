"""Tests of means over items that hold where few items differ much, and all others little."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from layerwise.stats.inference import sign_flip_p_values
from layerwise.stats.resampling import counted_sums, resample_counts, resample_indices, row_chunks

from .estimate import ALPHA

# Of the other sign an item may be so many times as far from 0 as the mean, though none was seen.
_LEAST_FAR = 4.0


def skewed_mean_p_values(
    values: Float[np.ndarray, "n columns"],
    *,
    seed: int | np.random.Generator,
    n_draws: int = 10_000,
) -> Float[np.ndarray, " columns"]:
    """Two-sided p-values of "the mean is 0": the largest of three tests, per column.

    ``stats.sign_flip_p_values`` is too sure of skewed values, ``bootstrap_t_p_values`` is not, but
    for heavy tails and where the sample lacks what would balance it. ``unseen_items_p_values``
    allows for that. All three must say so (Berger 1982, Technometrics 24).

    Args:
        values: one row per item, and a column for each of the means that are alike, as of the pairs
            of a task.
        seed: an int or a generator.
        n_draws: how many sign flips and how many resamples are drawn.
    """
    random = np.random.default_rng(seed)
    flipped = sign_flip_p_values(values, seed=random, n_flips=n_draws)
    p = np.maximum(flipped, unseen_items_p_values(values))
    sure = p < ALPHA  # the others are not significant, whatever the third says
    if sure.any():
        resampled = bootstrap_t_p_values(values[:, sure], seed=random, n_resamples=n_draws)
        p[sure] = np.maximum(p[sure], resampled)
    return p


def unseen_items_p_values(values: Float[np.ndarray, "n columns"]) -> Float[np.ndarray, " columns"]:
    """Two-sided p-values of "items of a kind that the sample lacks balance the mean".

    If a share u of all items is of such a kind, a sample of n has none with probability
    (1 - u)^n. They balance a mean m if u = m / (m + far), where ``far`` is how far from 0 they are,
    on the other side: as far as the farthest item of any column, or four times the mean.
    """
    n, mean = len(values), np.abs(values.mean(axis=0))
    above, below = max(float(values.max()), 0.0), max(float(-values.min()), 0.0)
    far = np.maximum(np.where(values.mean(axis=0) > 0, below, above), _LEAST_FAR * mean)
    known = far > 0
    lacking = np.where(known, far / np.where(known, far + mean, 1.0), 1.0) ** n
    return np.minimum(1.0, 2 * lacking)


def bootstrap_t_p_values(
    values: Float[np.ndarray, "n columns"],
    *,
    seed: int | np.random.Generator,
    n_resamples: int = 10_000,
) -> Float[np.ndarray, " columns"]:
    """Two-sided p-values of "the mean is 0" by the bootstrap of Student's t, per column.

    Each resample has a mean and a standard error of its own, which go together where values are
    skewed (Hall 1992, The Bootstrap and Edgeworth Expansion, section 3.5). Twice the smaller tail
    counts, with one added to count and total.

    Args:
        values: one row per item.
        seed: an int or a generator.
        n_resamples: how many resamples are drawn.

    Returns:
        The p-values; 1 of fewer than two items; the least that there is where all are the same and
        not 0, and 1 where all are 0.
    """
    n, mean = len(values), values.mean(axis=0)
    if n < 2:
        return np.ones(values.shape[1])
    away = values - mean
    spread = away.std(axis=0)
    varies = spread > 1e-9 * np.abs(mean)
    least = np.where(varies, 1e-9 * spread, 1.0)
    t = mean / np.where(varies, spread, 1.0)
    above, below = np.zeros((2, values.shape[1]), dtype=int)
    indices = resample_indices(n, n_resamples, seed)
    for rows in row_chunks(n_resamples, max(n, 4 * values.shape[1])):
        counts = resample_counts(indices[rows])
        means = counted_sums(counts, away) / n
        squares = counted_sums(counts, away**2) / n
        drawn = means / np.maximum(np.sqrt(np.maximum(squares - means**2, 0.0)), least)
        above += (drawn >= t).sum(axis=0)
        below += (drawn <= t).sum(axis=0)
    tail = np.minimum(above, below)
    alike = np.where(mean == 0, n_resamples, 0)
    return np.minimum(1.0, 2 * (np.where(varies, tail, alike) + 1) / (n_resamples + 1))
