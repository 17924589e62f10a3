"""Answers in the order in which they are asked, and the evidence in them after each round.

The order is fixed by the seed before anything is answered.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import combinations
from math import comb, log
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from layerwise.errors import UserError
from layerwise.stats.capability_layers import NEEDED, SPARE
from layerwise.stats.cells import Cell
from layerwise.stats.crossings import CROSSING
from layerwise.stats.items.clusters import Clusters
from layerwise.stats.pools import Pool, match_protocols, pools
from layerwise.stats.resampling import generator

from .evidence import majority_evidence, mean_above_evidence, mean_below_evidence
from .race import Crossings, Evidence, suprema

NATS, ACCURACY = MEASURES = ("nats", "accuracy")
ROUND_SIZE = 8


def item_order(clusters: Clusters, seed: int) -> Int[np.ndarray, " items"]:
    """Numbers of the items in the order in which they are asked, those of a cluster together.

    A cluster's place depends on the seed and its label alone, so that another task, protocol or
    layer changes nothing of it. Clusters without a label are known by the number of their item.
    """
    labels = [str(i) if label is None else label for i, label in enumerate(clusters.labels)]
    first = np.unique(clusters.codes, return_index=True)[1]
    keys = np.array([generator(seed, "order of items", labels[i]).random() for i in first])
    return np.argsort(keys[clusters.codes], kind="stable")


def round_ends(clusters: Clusters, size: int = ROUND_SIZE) -> Int[np.ndarray, " rounds"]:
    """Number of whole clusters that are asked by the end of each round.

    Args:
        clusters: of items in the order in which they are asked.
        size: items of a round; a cluster that it begins is asked to its end.
    """
    asked = np.cumsum(clusters.sizes)
    ends = np.arange(size, asked[-1] + size, size)
    return np.unique(np.minimum(np.searchsorted(asked, ends) + 1, clusters.n))


class Measure(NamedTuple):
    """A way to measure what a layer costs, in a range that is known beforehand."""

    name: str
    most: float  # what an item counts for at most, lost or gained
    smallest: float  # the smallest loss of interest

    def losses(
        self,
        pool: Pool,
        more: Int[np.ndarray, " columns"],
        less: Int[np.ndarray, " columns"] | None,
    ) -> Float[np.ndarray, "answers columns"]:
        """Losses of each answer without each layer, or more than without another layer."""
        values = pool.loss if self.name == ACCURACY else _nats(pool)
        lost = values[:, more] - (0.0 if less is None else values[:, less])
        return np.clip(lost, -self.most, self.most)

    def cost_evidence(
        self,
        pool: Pool,
        more: Int[np.ndarray, " columns"],
        less: Int[np.ndarray, " columns"] | None,
    ) -> Float[np.ndarray, "units columns"]:
        """Log evidence that each layer costs something, or more than another layer does."""
        if self.name == ACCURACY:
            net = pool.net[:, more] - (0 if less is None else pool.net[:, less])
            return majority_evidence(net, pool.clusters)
        return mean_above_evidence(self.losses(pool, more, less), 0.0, -self.most, pool.clusters)


def _nats(pool: Pool) -> Float[np.ndarray, "answers layers"]:
    if pool.nats is None or np.isnan(pool.nats).any():
        raise UserError(
            f"Some answers of {', '.join(pool.tasks)} ({', '.join(pool.protocols)}) have no "
            "log-probability of the right answer: expected one of each, to decide by nats; decide "
            "by accuracy, or under another protocol."
        )
    return pool.nats


class OrderedPool(NamedTuple):
    """A capability's answers under one protocol, in the order in which they are asked."""

    pool: Pool
    ends: Int[np.ndarray, " rounds"]  # whole clusters that are asked by the end of each round
    measure: Measure  # of what a layer costs

    @property
    def n_answers(self) -> Int[np.ndarray, " rounds"]:
        """Answers by the end of each round."""
        return np.cumsum(self.pool.clusters.sizes)[self.ends - 1]

    def own_rounds(self, rounds: Int[np.ndarray, " layers"]) -> Int[np.ndarray, " layers"]:
        """Rounds of this pool by the end of the race's rounds; it may have fewer than another."""
        return np.minimum(rounds, len(self.ends))

    @property
    def layers(self) -> Int[np.ndarray, " layers"]:
        """The numbers of the columns."""
        return np.arange(len(self.pool.layers))

    def at_rounds(
        self, values: Float[np.ndarray, "units columns"], n_rounds: int
    ) -> Float[np.ndarray, "rounds columns"]:
        """Values after each round; after the pool's last one they stay."""
        return values[self.ends[np.minimum(np.arange(n_rounds), len(self.ends) - 1)] - 1]

    def needed_suprema(self) -> Float[np.ndarray, "units layers"]:
        """Largest evidence so far that each layer costs something."""
        # Tasks with signal are partly those that were lucky: any choice of as many could have been
        # tested, so the evidence is divided by the number of choices.
        evidence = self.measure.cost_evidence(self.pool, self.layers, None)
        return suprema(evidence - log(self.pool.n_choices))

    def spare_suprema(self) -> Float[np.ndarray, "units layers"]:
        """Largest evidence so far that each layer costs too little, in every task of the pool."""
        # Of several p-values the largest counts (Berger 1982, Technometrics 24), at any time.
        codes, each = self.pool.clusters.codes, []
        for task in self.pool.tasks:
            part = self.pool.select_tasks([task])
            evidence = mean_below_evidence(
                self.measure.losses(part, self.layers, None), self.measure.smallest,
                self.measure.most, part.clusters,
            )  # fmt: skip
            # of the units of all tasks, those of this one so far; none is evidence of 1
            so_far = np.concatenate([np.zeros((1, len(self.layers))), suprema(evidence)])
            own = np.unique(codes[self.pool.task == task])
            each.append(so_far[np.searchsorted(own, np.arange(len(self)), side="right")])
        return np.min(each, axis=0)

    def __len__(self) -> int:
        """Number of units."""
        return self.pool.clusters.n


def ordered_pools(
    cells: Sequence[Cell],
    signal: Mapping[tuple[str, str], bool],
    floors: Mapping[tuple[str, str], np.ndarray],
    seed: int,
    measures: Mapping[str, Measure],
    round_size: int = ROUND_SIZE,
) -> list[OrderedPool]:
    """The answers of each capability under each protocol, where it has signal."""
    found = []
    for protocol in sorted({cell.protocol for cell in cells}):
        under = [cell for cell in cells if cell.protocol == protocol]
        for pool in pools(under, signal, floors):
            if pool.draws is not None:
                raise UserError(
                    f"The answers of {', '.join(pool.tasks)} are of several draws of few-shot "
                    "examples, which sequential decisions do not support; expected one draw: run "
                    "again without fewshot_seeds."
                )
            ordered = _in_order(pool, item_order(pool.clusters, seed))
            ends = round_ends(ordered.clusters, round_size)
            found.append(OrderedPool(ordered, ends, measures[protocol]))
    return found


def _in_order(pool: Pool, order: Int[np.ndarray, " answers"]) -> Pool:
    labels = [pool.clusters.labels[i] for i in order]
    of_answers = ("loss", "net", "margins", "intact", "floor", "task", "protocol")
    return pool._replace(
        **{name: getattr(pool, name)[order] for name in of_answers},
        clusters=Clusters.from_labels(labels),
        nats=None if pool.nats is None else pool.nats[order],
        items=None if pool.items is None else pool.items[order],
    )


def family_sizes(cells: Sequence[Cell], n_layers: int) -> dict[str, int]:
    """Hypotheses of each question's family: those of what has no signal count as well."""
    pairs = {(cell.capability, cell.protocol) for cell in cells}
    under = [[p for _, p in pairs].count(protocol) for protocol in {p for _, p in pairs}]
    compared = sum(comb(n, 2) for n in under)
    single = len(pairs) * n_layers
    return {NEEDED: single, SPARE: single, CROSSING: compared * n_layers * (n_layers - 1)}


def gather_evidence(every: Sequence[OrderedPool], questions: Collection[str]) -> Evidence:
    """Evidence on all places, as if every layer were asked all items."""
    n_rounds = max(len(ordered.ends) for ordered in every)
    n_places = sum(len(ordered.layers) for ordered in every)
    either = np.zeros((2, n_rounds, n_places))
    starts = np.cumsum([0, *(len(ordered.layers) for ordered in every)])
    for ordered, start in zip(every, starts.tolist(), strict=False):
        mine = slice(start, start + len(ordered.layers))
        if NEEDED in questions:
            either[0][:, mine] = ordered.at_rounds(ordered.needed_suprema(), n_rounds)
        if SPARE in questions:
            either[1][:, mine] = ordered.at_rounds(ordered.spare_suprema(), n_rounds)
    compared = list(combinations(range(len(every)), 2)) if CROSSING in questions else []
    return Evidence(either[0], either[1], _gather_crossings(every, compared, starts, n_rounds))


def _gather_crossings(
    every: Sequence[OrderedPool],
    compared: Sequence[tuple[int, int]],
    starts: Int[np.ndarray, " pools"],
    n_rounds: int,
) -> Crossings:
    """Both sides of all ordered pairs of layers, of capabilities under the same protocol."""
    sides: dict[int, np.ndarray] = {}

    def side(number: int) -> Float[np.ndarray, "rounds layers layers"]:
        if number not in sides:
            ordered, n = every[number], len(every[number].layers)
            more, less = np.indices((n, n)).reshape(2, -1)
            evidence = ordered.measure.cost_evidence(ordered.pool, more, less)
            sides[number] = ordered.at_rounds(suprema(evidence), n_rounds).reshape(-1, n, n)
        return sides[number]

    sides_of_all = [np.zeros((n_rounds, 2, 0))]
    more, less = [np.zeros((2, 0), dtype=int)], [np.zeros((2, 0), dtype=int)]
    for a, b in compared:
        first, second = every[a].pool, every[b].pool
        if first.protocols != second.protocols or match_protocols(first, second) is None:
            continue
        i, j = np.nonzero(~np.eye(len(first.layers), dtype=bool))
        sides_of_all.append(np.stack([side(a)[:, i, j], side(b)[:, j, i]], axis=1))
        more.append(np.stack([starts[a] + i, starts[b] + j]))
        less.append(np.stack([starts[a] + j, starts[b] + i]))
    return Crossings(
        np.concatenate(sides_of_all, axis=2),
        np.concatenate(more, axis=1),
        np.concatenate(less, axis=1),
    )
