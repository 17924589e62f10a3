"""Evidence that the tests of claims read: pooled answers without each layer, and other tables."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from jaxtyping import Float

from layerwise.stats.cells import Cell
from layerwise.stats.contrasts import Contrast, mean_contrast
from layerwise.stats.pools import Pool, clusters_of_cells, has_much_to_lose, pool_cells
from layerwise.stats.signals.signal import signals

Chance = Callable[[str, str], float]


@dataclass(frozen=True)
class Evidence:
    """Answers of a model with each layer skipped, and tables of other analyses.

    Attributes:
        cells: the answers by task and way of scoring, of tasks with signal and enough to lose.
        floors: accuracy of each item when all is lost.
        asked: tasks and ways of scoring that were asked, with or without signal.
        n_layers: layers of the model.
        tables: tables of other measurements by name; empty ones where nothing was measured.
        missing: claims that cannot be tested and measurements that could not be made, and why.
        trained: the answers of a model that was trained from this one; None if none was asked.
    """

    cells: Mapping[tuple[str, str], Cell]
    floors: Mapping[tuple[str, str], Float[np.ndarray, " items"]]
    asked: frozenset[tuple[str, str]]
    n_layers: int
    tables: Mapping[str, pd.DataFrame]
    missing: Mapping[str, str] = field(default_factory=dict)
    trained: Evidence | None = None

    @classmethod
    def from_cells(
        cls,
        every: Sequence[Cell],
        chance: Chance,
        n_layers: int,
        tables: Mapping[str, pd.DataFrame] | None = None,
        missing: Mapping[str, str] | None = None,
    ) -> Evidence:
        """The evidence of matrices of answers, of all that was asked."""
        signal = signals(every, chance)
        floors = {
            (cell.task, cell.protocol): cell.floor(chance(cell.task, cell.protocol))
            for cell in every
        }
        usable = {
            (cell.task, cell.protocol): cell
            for cell in every
            if signal[cell.task, cell.protocol]
            and len(cell.interventions) == n_layers
            and cell.clusters.n > 1
            and has_much_to_lose(cell.intact, floors[cell.task, cell.protocol])
        }
        asked = frozenset((cell.task, cell.protocol) for cell in every)
        return cls(usable, floors, asked, n_layers, tables or {}, missing or {})

    def select_tasks(self, tasks: Collection[str]) -> Evidence:
        """The evidence of some tasks alone."""
        cells = {key: cell for key, cell in self.cells.items() if key[0] in tasks}
        asked = frozenset(key for key in self.asked if key[0] in tasks)
        trained = None if self.trained is None else self.trained.select_tasks(tasks)
        return replace(self, cells=cells, asked=asked, trained=trained)

    @property
    def middle(self) -> range:
        """The middle half of the layers."""
        return range(self.n_layers // 4, self.n_layers - self.n_layers // 4)

    @property
    def thirds(self) -> tuple[list[int], list[int], list[int]]:
        """Early, middle and deep layers."""
        early, middle, deep = np.array_split(np.arange(self.n_layers), 3)
        return early.tolist(), middle.tolist(), deep.tolist()

    @property
    def halves(self) -> tuple[list[int], list[int]]:
        """The first and the second half; the middle layer of an odd number is in neither."""
        half = self.n_layers // 2
        return list(range(half)), list(range(self.n_layers - half, self.n_layers))

    def cells_under(self, *protocols: str) -> list[list[Cell]]:
        """Cells by way of scoring, of the tasks with signal under all of them."""
        tasks = {task for task, _ in self.cells}
        both = sorted(
            task for task in tasks if all((task, protocol) in self.cells for protocol in protocols)
        )
        return [[self.cells[task, protocol] for task in both] for protocol in protocols]

    def cells_of_capability(self, capability: str) -> list[Cell]:
        """All cells of a capability."""
        return [cell for cell in self.cells.values() if cell.capability == capability]

    def pool(self, chosen: Sequence[Cell]) -> Pool:
        """The answers of some cells together."""
        return pool_cells(chosen, self.floors, 1)


def nats_contrast(chosen: Sequence[Cell], weights: Float[np.ndarray, " layers"]) -> Contrast:
    """Weighted sum over layers of the nats that the right answer loses without each of them."""
    values = np.concatenate([cell.nats @ weights for cell in chosen])
    return mean_contrast(values, clusters_of_cells(chosen))
