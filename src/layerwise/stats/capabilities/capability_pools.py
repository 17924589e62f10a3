"""The answers of a capability, pooled over its tasks and protocols with signal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import comb
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped

from layerwise.stats.cells import Cell
from layerwise.stats.items.clusters import Clusters


class Pool(NamedTuple):
    """The answers of one capability, over its tasks and protocols with signal."""

    capability: str
    tasks: tuple[str, ...]  # its tasks with signal
    protocols: tuple[str, ...]  # the protocols under which they have signal
    layers: Int[np.ndarray, " layers"]  # the layers, in the order of the columns
    # Right answers of the intact model minus those without each layer.
    loss: Float[np.ndarray, "answers layers"]
    # The same as whole numbers: summed over draws, where an intervention has several.
    net: Int[np.ndarray, "answers layers"]
    intact: Float[np.ndarray, " answers"]  # right answers of the intact model
    floor: Float[np.ndarray, " answers"]  # right answers that are left without any layer, or chance
    protocol: Shaped[np.ndarray, " answers"]
    # Which answers are about the same item, or about items that ask for the same.
    clusters: Clusters
    n_choices: int  # in how many ways as many tasks and protocols could have had signal
    # Losses with each draw of few-shot examples, where there are several.
    draws: Float[np.ndarray, "draws answers layers"] | None = None

    @property
    def scale(self) -> float:
        """The accuracy that the layers bring: that of the intact model above the floor."""
        return float((self.intact - self.floor).mean())

    def under(self, protocols: Sequence[str]) -> Pool:
        """The answers under some of the protocols alone."""
        chosen = np.isin(self.protocol, protocols)
        return self._replace(
            protocols=tuple(name for name in self.protocols if name in protocols),
            protocol=self.protocol[chosen],
            loss=self.loss[chosen],
            net=self.net[chosen],
            intact=self.intact[chosen],
            floor=self.floor[chosen],
            clusters=self.clusters.only(chosen),
        )

    def shares(
        self, loss: Float[np.ndarray, "answers layers"]
    ) -> tuple[Float[np.ndarray, " layers"], Float[np.ndarray, "clusters layers"]]:
        """Mean losses as shares of the scale, and how far each cluster moves them."""
        # A share is the mean over protocols, whatever number of tasks has signal under each. The
        # squared moves sum to its variance.
        share, away = np.zeros(loss.shape[1]), np.zeros(loss.shape)
        above, weight = self.intact - self.floor, self._weights()
        for name in self.protocols:
            rows = self.protocol == name
            weighted = (weight[rows, None] * loss[rows]).sum(axis=0)
            share += weighted
            away[rows] = weight[rows, None] * (
                loss[rows] - len(self.protocols) * weighted * above[rows, None]
            )
        n = self.clusters.n
        return share, self.clusters.sums(away) * np.sqrt(n / (n - 1))

    def _weights(self) -> Float[np.ndarray, " answers"]:
        """Weight of each answer's loss in the share."""
        weight = np.zeros(len(self.loss))
        for name in self.protocols:
            rows = self.protocol == name
            whole = (self.intact - self.floor)[rows].sum()
            weight[rows] = 1 / (whole * len(self.protocols)) if whole > 0 else 0.0
        return weight

    @property
    def least_error(self) -> float:
        """Standard error of a share if a single cluster had another outcome than all others."""
        # A sample in which all agree has no spread to see.
        return float(self.clusters.sums(self._weights()).max())


def pools(
    cells: Sequence[Cell], signal: Mapping[tuple[str, str], bool], floors: Mapping[Any, np.ndarray]
) -> list[Pool]:
    """The answers of each capability that has signal somewhere."""
    known = [cell for cell in cells if signal[cell.task, cell.protocol]]
    by_capability = {
        name: [c for c in cells if c.capability == name] for name in capabilities_of(cells)
    }
    pooled = []
    for capability, every in by_capability.items():
        own_cells = [
            cell for cell in known if cell.capability == capability and len(cell.interventions)
        ]
        if own_cells:
            pooled.append(pool_of(own_cells, floors, comb(len(every), len(own_cells))))
    return [pool for pool in pooled if pool.clusters.n > 1 and pool.scale > 0]


def capabilities_of(cells: Sequence[Cell]) -> list[str]:
    """The capabilities that were asked."""
    return list(dict.fromkeys(cell.capability for cell in cells))


def pool_of(cells: Sequence[Cell], floors: Mapping[Any, np.ndarray], n_choices: int) -> Pool:
    """The answers of some cells of one capability, as one pool."""
    swept = [cell.interventions["layer"].to_numpy(dtype=int) for cell in cells]
    layers = sorted(set.intersection(*(set(each.tolist()) for each in swept)))
    columns = [np.flatnonzero(np.isin(each, layers)) for each in swept]
    draws = None
    if cells[0].of_examples:
        each = [
            np.stack([of_example.change[:, at] for of_example in cell.of_examples])
            for cell, at in zip(cells, columns, strict=True)
        ]
        draws = np.concatenate(each, axis=1)
    labels = [
        f"{cell.task}\0{item}" if label is None else label
        for cell in cells
        for item, label in zip(cell.items, cell.clusters.labels, strict=True)
    ]
    return Pool(
        cells[0].capability,
        tuple(dict.fromkeys(cell.task for cell in cells)),
        tuple(dict.fromkeys(cell.protocol for cell in cells)),
        np.array(layers, dtype=int),
        np.concatenate([c.change[:, at] for c, at in zip(cells, columns, strict=True)]),
        np.concatenate([c.net[:, at] for c, at in zip(cells, columns, strict=True)]),
        np.concatenate([cell.intact.astype(float) for cell in cells]),
        np.concatenate([floors[cell.task, cell.protocol] for cell in cells]),
        np.concatenate([np.full(len(cell.intact), cell.protocol) for cell in cells]),
        Clusters.of(labels),
        n_choices,
        draws,
    )
