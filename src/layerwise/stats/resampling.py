"""Random streams, and bootstrap samples: drawn, counted and summed in chunks of bounded memory."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from jaxtyping import Float, Int, Shaped

# Numbers of a chunk of rows (resamples or sign flips): 32 MB of floats.
_AT_ONCE = 2**22
# Matrix products round a row alike in chunks that begin at multiples of this and are no smaller.
_ROWS = 64


def generator(seed: int, *names: str) -> np.random.Generator:
    """A random stream that depends on ``seed`` and ``names`` alone.

    So a task's resamples are the same in every layer, protocol and method, and do not change
    when other tasks are added to the run.
    """
    return np.random.default_rng([seed, *(zlib.crc32(name.encode()) for name in names)])


def row_chunks(n_rows: int, width: int) -> Iterator[slice]:
    """All rows of a matrix in chunks of a bounded size, so that memory does not grow with it."""
    step = max(1, _AT_ONCE // max(width, 1) // _ROWS) * _ROWS
    starts = [*range(0, max(n_rows - _ROWS, 1), step)]
    return (slice(*ends) for ends in pairwise([*starts, n_rows]))


def resample_indices(
    n: int, n_resamples: int, seed: int | np.random.Generator
) -> Int[np.ndarray, "resamples n"]:
    """Draw bootstrap samples of ``n`` items: one row of item indices per resample."""
    random, indices = np.random.default_rng(seed), np.empty((n_resamples, n), _small(n))
    for rows in row_chunks(n_resamples, n):
        indices[rows] = random.integers(0, max(n, 1), size=indices[rows].shape)
    return indices


def resample_counts(indices: Int[np.ndarray, "resamples n"]) -> Int[np.ndarray, "resamples n"]:
    """Number of times that each item was drawn in each resample; rows sum to ``n``."""
    n_resamples, n = indices.shape
    counts = np.empty(indices.shape, _small(n))
    for rows in row_chunks(n_resamples, n):
        flat = indices[rows] + n * np.arange(len(indices[rows]))[:, None]
        counts[rows] = np.bincount(flat.ravel(), minlength=flat.size).reshape(flat.shape)
    return counts


def _small(n: int) -> np.dtype:
    """The smallest signed type that holds 0 to n."""
    return np.min_scalar_type(-n - 1)


def counted_sums(
    counts: Int[np.ndarray, "resamples n"], values: Shaped[np.ndarray, "n columns"]
) -> Float[np.ndarray, "resamples columns"]:
    """Sums of every column over each bootstrap sample, which ``counts`` describes."""
    numbers, sums = values.astype(float), np.empty((len(counts), values.shape[1]))
    for rows in row_chunks(*counts.shape):
        sums[rows] = counts[rows].astype(float) @ numbers
    return sums


def resampled_means(
    values: Shaped[np.ndarray, "n columns"], indices: Int[np.ndarray, "resamples n"]
) -> Float[np.ndarray, "resamples columns"]:
    """Mean over items of every column (a layer, say), in every resample.

    The same items are drawn for all columns, so differences between columns stay paired.
    """
    return counted_sums(resample_counts(indices), values) / max(len(values), 1)
