"""Orders of removal that are known before any of their steps is measured.

Each gives, for 1 to n layers, the set that is left out; an order of single layers names the one
that is added last. Ties go to the deepest layers, as in the searches. One layer of each stack
stays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from layerwise.analyses.similarity.measures import angular_distances
from layerwise.ground.layer_names import removable, spans
from layerwise.sweep.activations.streams import Streams

from .tables import BLOCKS, best_candidate

Layers = tuple[int, ...]
# Of each task the streams of its stacks.
Read = Sequence[Sequence[Streams]]
# Similarities that differ by less are a tie; float32 leaves that much of a layer that does nothing.
_SAME = 1e-6


def largest_removal(by: str, n_encoder: int, n_layers: int) -> int:
    """Number of layers that an order can remove."""
    stacks = [last + 1 - first for first, last in spans(n_encoder, n_layers)]
    return max(stacks) - 1 if by in BLOCKS else sum(stacks) - len(stacks)


def neighbouring_blocks(size: int, n_encoder: int, n_layers: int) -> list[Layers]:
    """All blocks of so many neighbouring layers, none in two stacks and none a whole stack."""
    return [
        tuple(range(start, start + size))
        for first, last in spans(n_encoder, n_layers)
        for start in range(first, last + 2 - size)
        if size < last + 1 - first
    ]


def from_the_end(n: int, n_encoder: int, n_layers: int) -> list[Layers]:
    """From the deep end of each stack, first where the greater share is left, else the decoder."""

    def deepest(can_go: list[int]) -> int:
        ends = []
        for first, last in spans(n_encoder, n_layers):
            if left := [layer for layer in can_go if first <= layer <= last]:
                ends.append((len(left) / (last + 1 - first), left[-1]))
        return max(ends)[1]

    return _greedy_sets(n, (n_encoder, n_layers), deepest)


def by_effect(candidates: pd.DataFrame, n: int, n_encoder: int, n_layers: int) -> list[Layers]:
    """Single layers by what each loses when it alone is skipped, the least first."""
    alone = candidates.loc[candidates["step"] == 1]
    layers = alone["layers"].map(lambda listed: int(listed[0]))
    return _greedy_sets(
        n, (n_encoder, n_layers),
        lambda can_go: best_candidate(pd.DataFrame(alone.loc[layers.isin(can_go)]))[0],
    )  # fmt: skip


def by_influence(read: Read, n: int) -> list[Layers]:
    """Single layers by block influence, the least first (ShortGPT, arXiv:2403.03853)."""
    means = [np.concatenate([r.influence.numpy().mean(axis=1) for r in task]) for task in read]
    values = np.mean(means, axis=0)
    return _greedy_sets(n, _sizes(read), lambda can_go: can_go[_least(values[can_go])])


def by_angle(read: Read, n: int) -> list[Layers]:
    """Of each size the block across which the stream turns least (arXiv:2403.17887)."""
    maps = [
        np.mean([angular_distances(one.read.numpy()).mean(axis=0) for one in of_stack], axis=0)
        for of_stack in zip(*read, strict=True)
    ]
    chosen = []
    for size in range(1, n + 1):
        blocks = neighbouring_blocks(size, *_sizes(read))
        across = [np.diagonal(cosines, size) for cosines in maps if size < len(cosines) - 1]
        chosen.append(blocks[_least(np.concatenate(across))])
    return chosen


def _sizes(read: Read) -> tuple[int, int]:
    """Layers of the encoder, 0 if there is none, and of the model."""
    sizes = [len(item.influence) for item in read[0]]
    return sizes[0] * (len(sizes) > 1), sum(sizes)


def _least(values: Float[np.ndarray, " choice"]) -> int:
    """Index of the least value, the last one of those that are the same."""
    return int(np.flatnonzero(values <= np.nanmin(values) + _SAME)[-1])


def _greedy_sets(
    n: int, sizes: tuple[int, int], pick: Callable[[list[int]], int]
) -> list[Layers]:  # fmt: skip
    """The sets that grow by what ``pick`` takes of the layers that can go."""
    order: Layers = ()
    return [order := (*order, pick(removable(order, *sizes))) for _ in range(n)]
