"""The answers of a capability, pooled over its tasks and protocols with signal.

What is tested of them is elsewhere: ``capability_layers.py`` and ``crossings.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from math import comb
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped

from layerwise.stats.cells import Cell
from layerwise.stats.families.estimate import exact_difference_bounds
from layerwise.stats.families.multiplicity import correct_family
from layerwise.stats.items.clusters import Clusters, independent_items, paired_p_values
from layerwise.stats.signals.least_to_lose import LEAST_TO_LOSE

LEVEL = 0.05


class Pool(NamedTuple):
    """The answers of one capability, over its tasks and protocols with signal."""

    capability: str
    layers: Int[np.ndarray, " layers"]  # the layers, in the order of the columns
    # Right answers of the intact model minus those without each layer.
    loss: Float[np.ndarray, "answers layers"]
    # The same as whole numbers: summed over draws, where an intervention has several.
    net: Int[np.ndarray, "answers layers"]
    # Nats that the right answer's margin above the best distractor loses; nan where it has none.
    margins: Float[np.ndarray, "answers layers"]
    intact: Float[np.ndarray, " answers"]  # right answers of the intact model
    floor: Float[np.ndarray, " answers"]  # right answers that are left without any layer, or chance
    task: Shaped[np.ndarray, " answers"]
    protocol: Shaped[np.ndarray, " answers"]
    # Which answers are about the same item, or about items that ask for the same.
    clusters: Clusters
    n_choices: int  # in how many ways as many tasks and protocols could have had signal
    # Losses with each draw of few-shot examples, where there are several.
    draws: Float[np.ndarray, "draws answers layers"] | None = None
    # Nats that the right answer's log-probability loses; nan where it has none.
    nats: Float[np.ndarray, "answers layers"] | None = None
    items: Shaped[np.ndarray, " answers"] | None = None  # ids of the items, where they are known

    @property
    def tasks(self) -> tuple[str, ...]:
        """Its tasks with signal."""
        return tuple(dict.fromkeys(map(str, self.task)))

    @property
    def protocols(self) -> tuple[str, ...]:
        """The protocols under which they have signal."""
        return tuple(dict.fromkeys(map(str, self.protocol)))

    @property
    def scale(self) -> float:
        """The accuracy that the layers bring: that of the intact model above the floor."""
        return float((self.intact - self.floor).mean())

    def select_protocols(self, protocols: Sequence[str]) -> Pool:
        """The answers under some of the protocols alone."""
        return self.select_answers(np.isin(self.protocol, protocols))

    def select_tasks(self, tasks: Sequence[str]) -> Pool:
        """The answers of some of the tasks alone."""
        return self.select_answers(np.isin(self.task, tasks))

    def select_answers(self, chosen: Shaped[np.ndarray, " answers"]) -> Pool:
        """Some of the answers alone."""
        return self._replace(
            task=self.task[chosen],
            protocol=self.protocol[chosen],
            loss=self.loss[chosen],
            net=self.net[chosen],
            margins=self.margins[chosen],
            intact=self.intact[chosen],
            floor=self.floor[chosen],
            clusters=self.clusters.select_items(chosen),
            draws=None if self.draws is None else self.draws[:, chosen],
            nats=None if self.nats is None else self.nats[chosen],
            items=None if self.items is None else self.items[chosen],
        )

    def select_signal_in_all(self, protocols: Sequence[str]) -> Pool:
        """The answers under some protocols, of the tasks that have signal under all of them."""
        under = self.select_protocols(protocols)
        of = {name: set(under.protocol[under.task == name]) for name in under.tasks}
        return under.select_tasks([name for name in of if of[name] == set(protocols)])

    @property
    def parts(self) -> list[Pool]:
        """The answers of each task under each protocol."""
        return [
            part
            for task in self.tasks
            for of_task in [self.select_tasks([task])]
            for part in [of_task.select_protocols([name]) for name in of_task.protocols]
        ]

    def p_more(self, net: Int[np.ndarray, "answers columns"]) -> Float[np.ndarray, " columns"]:
        """One-sided p-values of "the column loses nothing", by exact sign flips of whole items."""
        p = paired_p_values(net, self.clusters)
        return np.where(net.sum(axis=0) > 0, p / 2, 1.0)

    def bounds(
        self, lost: Float[np.ndarray, "answers columns"], n_tests: int
    ) -> tuple[Float[np.ndarray, " columns"], Float[np.ndarray, " columns"]]:
        """Exact bounds of the means of what answers lose, for so many tests together."""
        either_way = np.maximum(lost, 0), np.maximum(-lost, 0)
        worth = np.minimum(*(independent_items(each, self.clusters) for each in either_way))
        losses, gains = (each.sum(axis=0) * worth / len(lost) for each in either_way)
        return exact_difference_bounds(losses, gains, worth, n_tests=n_tests)

    def tasks_alone(self, net: Int[np.ndarray, "answers columns"]) -> list[str]:
        """Tasks that show each column's loss by themselves, comma-separated."""
        return self._labels_showing(net, self.task, self.tasks)

    def protocols_alone(self, net: Int[np.ndarray, "answers columns"]) -> list[str]:
        """Protocols that show each column's loss by themselves, comma-separated."""
        return self._labels_showing(net, self.protocol, self.protocols)

    def _labels_showing(
        self,
        net: Int[np.ndarray, "answers columns"],
        labels: Shaped[np.ndarray, " answers"],
        names: Sequence[str],
    ) -> list[str]:
        parts = [(self.select_answers(labels == name), net[labels == name]) for name in names]
        p = correct_family(np.stack([part.p_more(own) for part, own in parts], axis=1))
        return [
            ", ".join(name for name, value in zip(names, row, strict=True) if value < LEVEL)
            for row in p
        ]

    def shares(
        self, loss: Float[np.ndarray, "answers layers"]
    ) -> tuple[Float[np.ndarray, " layers"], Float[np.ndarray, "clusters layers"]]:
        """Mean losses as shares of the scale, and how far each cluster moves them."""
        # A way of scoring counts by what there is to lose under it. The squared moves sum to the
        # variance of the share.
        above = self.intact - self.floor
        share = loss.sum(axis=0) / above.sum()
        away = (loss - share * above[:, None]) / above.sum()
        n = self.clusters.n
        return share, self.clusters.sums(away) * np.sqrt(n / (n - 1))

    @property
    def least_error(self) -> float:
        """Standard error of a share if a single cluster had another outcome than all others."""
        # A sample in which all agree has no spread to see.
        ones = np.ones(len(self.loss))
        return float(self.clusters.sums(ones).max() / (self.intact - self.floor).sum())


def pools(
    cells: Sequence[Cell], signal: Mapping[tuple[str, str], bool], floors: Mapping[Any, np.ndarray]
) -> list[Pool]:
    """The answers of each capability that has signal, and something to lose, somewhere."""
    pooled = []
    for capability in dict.fromkeys(cell.capability for cell in cells):
        every = [cell for cell in cells if cell.capability == capability]
        tested = [
            cell
            for cell in every
            if signal[cell.task, cell.protocol]
            and len(cell.interventions)
            and has_much_to_lose(cell.intact, floors[cell.task, cell.protocol])
        ]
        if tested:
            pooled.append(pool_cells(tested, floors, comb(len(every), len(tested))))
    return [pool for pool in pooled if pool.clusters.n > 1 and pool.scale > 0]


def has_much_to_lose(
    intact: Shaped[np.ndarray, " items"], floor: Float[np.ndarray, " items"]
) -> bool:
    """True if the right answers above the floor are enough to compare layers by."""
    return float((intact - floor).sum()) >= LEAST_TO_LOSE - 1e-9


def clusters_of_cells(cells: Sequence[Cell]) -> Clusters:
    """Clusters of the answers of some cells, one after the other; an item's own are one."""
    labels = [
        f"{cell.task}\0{item}" if label is None else label
        for cell in cells
        for item, label in zip(cell.items, cell.clusters.labels, strict=True)
    ]
    return Clusters.from_labels(labels)


def pool_cells(cells: Sequence[Cell], floors: Mapping[Any, np.ndarray], n_choices: int) -> Pool:
    """The answers of some cells of one capability, as one pool."""
    swept = [cell.interventions["layer"].to_numpy(dtype=int) for cell in cells]
    layers = sorted(set.intersection(*(set(each.tolist()) for each in swept)))
    columns = [np.flatnonzero(np.isin(each, layers)) for each in swept]
    cut = [cell.select_interventions(at) for cell, at in zip(cells, columns, strict=True)]
    draws = None
    if cells[0].of_examples:
        each = [np.stack([draw.change for draw in cell.of_examples]) for cell in cut]
        draws = np.concatenate(each, axis=1)
    return Pool(
        cells[0].capability,
        np.array(layers, dtype=int),
        np.concatenate([cell.change for cell in cut]),
        np.concatenate([cell.net for cell in cut]),
        np.concatenate([cell.margins for cell in cut]),
        np.concatenate([cell.intact.astype(float) for cell in cells]),
        np.concatenate([floors[cell.task, cell.protocol] for cell in cells]),
        np.concatenate([np.full(len(cell.intact), cell.task) for cell in cells]),
        np.concatenate([np.full(len(cell.intact), cell.protocol) for cell in cells]),
        clusters_of_cells(cells),
        n_choices,
        draws,
        np.concatenate([cell.nats for cell in cut]),
        np.concatenate([np.array(cell.items, dtype=object) for cell in cells]),
    )


def match_protocols(first: Pool, second: Pool) -> tuple[Pool, Pool] | None:
    """Two capabilities under the same protocols, of tasks with signal under all of these.

    A task that has signal when choosing alone would make a layer that choosing needs look like one
    that its capability needs. As many protocols as possible are kept, then as many items.

    Returns:
        Both capabilities; None if no protocol, or not the same layers, can be compared.
    """
    # Draws of few-shot examples that all items share are no part of the tests.
    if not np.array_equal(first.layers, second.layers) or first.draws is not None:
        return None
    both = [name for name in first.protocols if name in second.protocols]
    for n in range(len(both), 0, -1):
        cut = [
            (first.select_signal_in_all(names), second.select_signal_in_all(names))
            for names in combinations(both, n)
        ]
        kept = [pair for pair in cut if all(p.clusters.n > 1 and p.scale > 0 for p in pair)]
        if kept:
            return max(kept, key=lambda pair: sum(pool.clusters.n for pool in pair))
    return None
