"""Orders of removal that are known before any of their steps is measured.

Each gives, for 1 to n layers, the set that is left out; an order of single layers names the one
that is added last. Ties go to the deepest layers, as in the searches.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from layerwise._removal_tables import best_candidate
from layerwise._similarity_measures import angular_distances
from layerwise.sweep.stream_reading import Streams

Layers = tuple[int, ...]
# Similarities that differ by less are a tie; float32 leaves that much of a layer that does nothing.
_SAME = 1e-6


def by_effect(candidates: pd.DataFrame, n: int) -> list[Layers]:
    """Single layers by what each loses when it alone is skipped, the least first.

    Args:
        candidates: rows of ``removal_candidates.parquet`` of all single layers.
        n: how many layers.
    """
    left, order = candidates.loc[candidates["step"] == 1], []
    for _ in range(n):
        best = left["intervention"] == best_candidate(left)
        order.append(int(left.loc[best, "layers"].iloc[0][0]))
        left = left.loc[~best]
    return _added(order)


def by_influence(streams: Sequence[Streams], n: int) -> list[Layers]:
    """Single layers by block influence, the least first (ShortGPT, arXiv:2403.03853).

    Args:
        streams: of each task, all with the same weight.
        n: how many layers.
    """
    values = np.mean([one.influence.numpy().mean(axis=1) for one in streams], axis=0)
    order: list[int] = []
    for _ in range(n):
        order.append(_least(np.where(np.isin(np.arange(len(values)), order), np.inf, values)))
    return _added(order)


def by_angle(streams: Sequence[Streams], n: int) -> list[Layers]:
    """Of each size the block across which the stream turns least (arXiv:2403.17887).

    Args:
        streams: as in ``by_influence``; blocks of different sizes need not contain each other.
        n: how many layers.
    """
    maps = [angular_distances(one.last.numpy()).mean(axis=0) for one in streams]
    distances = np.mean(maps, axis=0)
    firsts = [_least(np.diagonal(distances, size)) for size in range(1, n + 1)]
    return [tuple(range(first, first + size)) for size, first in enumerate(firsts, start=1)]


def _least(values: np.ndarray) -> int:
    """Where the least value is, the last place of those that are the same."""
    return int(np.flatnonzero(values <= np.nanmin(values) + _SAME)[-1])


def _added(order: Sequence[int]) -> list[Layers]:
    return [tuple(order[:step]) for step in range(1, len(order) + 1)]
