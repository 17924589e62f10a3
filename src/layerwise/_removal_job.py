"""A planned removal of layers: each step tries what can go next, and takes the best.

The public function with its arguments is in ``removal``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from layerwise import stats
from layerwise._ablation_job import METHODS, write_requests
from layerwise._parts import Parts
from layerwise._progress import Meter
from layerwise._records import planned, record_rows, work_entry
from layerwise._removal_tables import (
    BLOCK,
    GREEDY,
    HELD_OUT,
    SELECTION,
    best_candidate,
    candidates_table,
    tasks_that_count,
)
from layerwise._setup import Setup
from layerwise._tables import conform, frame
from layerwise.errors import UserError, unknown_name
from layerwise.results import RemovalResult
from layerwise.sweep import SweepStats, intact, skip_layers
from layerwise.sweep.cost import Cost
from layerwise.tasks import Task, TaskRequest
from layerwise.tasks.items import Item

WAYS = (GREEDY, BLOCK)
Layers = tuple[int, ...]


@dataclass(frozen=True)
class Removal:
    """A planned removal; one piece per step, and one for the held-out items.

    Attributes:
        setup: what it starts from, with one protocol.
        n_removed: how many layers are removed.
        by: ``greedy`` or ``block``.
        held_out: the share of each task's items that the search does not see.
        method: ``engine`` or ``reference``.
    """

    setup: Setup
    n_removed: int
    by: str
    held_out: float
    method: str = "engine"

    def __post_init__(self) -> None:
        if self.by not in WAYS:
            raise unknown_name("way to remove layers", self.by, WAYS)
        if self.method not in METHODS:
            raise unknown_name("method", self.method, METHODS)
        if len(self.setup.protocols) != 1:
            raise UserError(
                f"An order of removal holds under one protocol, and {len(self.setup.protocols)} "
                "were named; name one, and run again for another."
            )
        n_layers = self.setup.model.cfg.n_layers
        if not 1 <= self.n_removed < n_layers:
            raise UserError(
                f"The number of layers to remove is {self.n_removed}; expected 1 to "
                f"{n_layers - 1}, because the model has {n_layers} layers and one must stay."
            )
        if not 0 <= self.held_out < 1:
            raise UserError(
                f"The share of items held out is {self.held_out}; expected 0 (none) or more, "
                "and less than 1."
            )
        for task in self.setup.tasks:  # bad input is told before any work is done
            self._split(task)
            for item in task.items:
                self.setup.requests(task, item, self._protocol)

    @property
    def _protocol(self) -> str:
        return self.setup.protocols[0]

    def settings(self) -> dict[str, Any]:
        """What makes it this removal and no other."""
        return {
            "by": self.by,
            "n_removed": self.n_removed,
            "held_out": self.held_out,
            "method": self.method,
        }

    def run(self, parts: Parts, settings: dict[str, Any], told: Meter) -> RemovalResult:
        """Make the steps that are missing, and join all of them."""
        costs = [self._cost(n) for n in range(self.n_removed + 1) if n or self.held_out]
        costs = costs if self.held_out else [Cost(), *costs]
        told.expect(sum((cost.amount for cost in costs), start=0.0))
        tables: list[pd.DataFrame] = []
        for step in range(1, self.n_removed + 1):
            told.doing(f"removing layers, step {step} of {self.n_removed}")
            if not parts.has_part(f"removal {step}"):
                table, work = self._step(step, tables)
                self._keep(parts, step, table, work | planned(costs[step]))
            tables.append(_read(parts, step))
            told.done(costs[step].amount)
            if not np.any(tables[-1]["chosen"]):  # no task has signal
                return self._joined(parts, settings, tables, range(1, step + 1))
        if not self.held_out:
            return self._joined(parts, settings, tables, range(1, self.n_removed + 1))
        told.doing("removing layers, held-out items")
        if not parts.has_part("removal 0"):
            table, work = self._curve(tables)
            self._keep(parts, 0, table, work | planned(costs[0]))
        told.done(costs[0].amount)
        every = range(1, self.n_removed + 1)
        return self._joined(parts, settings, [*tables, _read(parts, 0)], [*every, 0])

    def _keep(self, parts: Parts, number: int, table: pd.DataFrame, work: dict[str, Any]) -> None:
        """Keep a piece: that of a step, or under 0 that of the held-out items."""
        parts.write_part(f"removal work {number}", pd.DataFrame([work]))
        parts.write_part(f"removal {number}", table)

    def _joined(
        self,
        parts: Parts,
        settings: dict[str, Any],
        tables: Sequence[pd.DataFrame],
        numbers: Sequence[int],
    ) -> RemovalResult:
        work = [parts.read_part(f"removal work {n}").to_dict("records")[0] for n in numbers]
        facts = self.setup.facts(settings, [{str(k): v for k, v in w.items()} for w in work])
        return RemovalResult(pd.concat(tables, ignore_index=True), facts)

    def _step(
        self, step: int, before: Sequence[pd.DataFrame]
    ) -> tuple[pd.DataFrame, dict[str, Any]]:
        """Try all candidates of a step on the selection items, and mark the best."""
        tasks = self.setup.tasks if not before else self._counted(before[0])
        start: list[Layers] = [()] if not before else []
        tried = [*start, *self._candidates(step, _chosen(before[-1]) if before else ())]
        table, cost = self._measure(tasks, SELECTION, tried)
        intact_rows = [t.loc[t["step"] == 0] for t in before[:1]]
        known = pd.concat([*intact_rows, table], ignore_index=True)
        scored = candidates_table(known, self._chance)
        if len(scored):
            table["chosen"] = table["intervention"] == best_candidate(scored)
        return table, {**_work(tasks, SELECTION, cost), "step": step}

    def _curve(self, steps: Sequence[pd.DataFrame]) -> tuple[pd.DataFrame, dict[str, Any]]:
        """The intact model and what each step removed, on the held-out items."""
        tasks = self._counted(steps[0])
        table, cost = self._measure(tasks, HELD_OUT, [(), *map(_chosen, steps)])
        table["chosen"] = table["step"] > 0
        return table, _work(tasks, HELD_OUT, cost)

    def _candidates(self, step: int, removed: Layers) -> list[Layers]:
        """What can be left out at a step, whose number is that of layers left out."""
        n_layers = self.setup.model.cfg.n_layers
        if self.by == BLOCK:
            return [tuple(range(first, first + step)) for first in range(n_layers - step + 1)]
        return [(*removed, layer) for layer in range(n_layers) if layer not in removed]

    def _counted(self, first: pd.DataFrame) -> tuple[Task, ...]:
        """The tasks with signal, by the table of the first step."""
        counted = tasks_that_count(first, self._chance)
        return tuple(task for task in self.setup.tasks if task.name in counted)

    def _chance(self, task: str, protocol: str) -> float:
        return {t.name: t for t in self.setup.tasks}[task].chance[protocol]

    def _measure(
        self, tasks: Sequence[Task], split: str, tried: Sequence[Layers]
    ) -> tuple[pd.DataFrame, SweepStats]:
        """Ask all tasks' items of a split with each set of layers left out, in one sweep."""
        asked = [(task, items, self._asked(task, items)) for task, items in self._of(tasks, split)]
        changes = [skip_layers(layers) if layers else intact() for layers in tried]
        put = [one.request for _, _, requests in asked for one in requests]
        swept = self.setup.sweep(changes, put, self.method)
        layers_of = {change.id: list(layers) for change, layers in zip(changes, tried, strict=True)}
        rows, start = [], 0
        for task, items, requests in asked:
            stop = start + len(requests)
            mine = replace(swept, outcomes=[found[start:stop] for found in swept.outcomes])
            for row in record_rows(task, items, requests, changes, mine):
                layers = layers_of[row["intervention"]]
                more = {"by": self.by, "step": len(layers), "layers": layers, "split": split}
                rows.append({name: row[name] for name in _KEPT} | more | {"chosen": False})
            start = stop
        return frame("removal", rows), swept.stats

    def _of(self, tasks: Sequence[Task], split: str) -> Iterator[tuple[Task, tuple[Item, ...]]]:
        return ((task, self._split(task)[split]) for task in tasks)

    def _split(self, task: Task) -> dict[str, tuple[Item, ...]]:
        """The items that the search sees, and those held out, drawn by the seed."""
        n = len(task.items)
        n_out = round(self.held_out * n)
        if n_out == n or (self.held_out and not n_out):
            raise UserError(
                f"Of task {task.name!r} {n_out} of {n} items would be held out; expected at least "
                "one item to select by and one held out: take more items, or hold out none (0)."
            )
        out = set(stats.generator(self.setup.seed, HELD_OUT).permutation(n)[:n_out].tolist())
        return {
            SELECTION: tuple(item for i, item in enumerate(task.items) if i not in out),
            HELD_OUT: tuple(item for i, item in enumerate(task.items) if i in out),
        }

    def _asked(self, task: Task, items: Sequence[Item]) -> list[TaskRequest]:
        return [r for item in items for r in self.setup.requests(task, item, self._protocol)]

    def _cost(self, step: int) -> Cost:
        """Expected cost of a step (0: the held-out items), whichever layers went before."""
        tried = [tuple(range(n)) for n in range(self.n_removed + 1)]
        if step:
            start: list[Layers] = [()] if step == 1 else []
            tried = [*start, *self._candidates(step, tuple(range(step - 1)))]
        asked = [
            one.request
            for task, items in self._of(self.setup.tasks, SELECTION if step else HELD_OUT)
            for one in self._asked(task, items)
        ]
        changes = [skip_layers(layers) if layers else intact() for layers in tried]
        cost = self.setup.cost(self.setup.tasks[0], changes, asked)
        return cost if self.method == "engine" else cost.by_brute_force()

    def write_requests(self, folder: Path) -> None:
        """Write exactly what was put to the model, one line per request."""
        write_requests((r for t in self.setup.tasks for r in self._asked(t, t.items)), folder)


_KEPT = (
    "intervention", "task", "capability", "item", "protocol", "correct", "gold_logprob",
)  # fmt: skip


def _read(parts: Parts, number: int) -> pd.DataFrame:
    return conform("removal", parts.read_part(f"removal {number}"))


def _chosen(table: pd.DataFrame) -> Layers:
    """The layers that a step's best candidate leaves out."""
    return tuple(table.loc[table["chosen"], "layers"].iloc[0])


def _work(tasks: Sequence[Task], split: str, cost: SweepStats) -> dict[str, Any]:
    names = ", ".join(task.name for task in tasks)
    return {**work_entry("layer removal", names, cost), "items": split}
