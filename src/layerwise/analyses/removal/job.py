"""A planned removal of layers: searches that try what can go next, and orders given beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from typing import Any

import pandas as pd

from layerwise import stats
from layerwise.analyses.shared.left_out import HELD_OUT, SELECTION
from layerwise.analyses.similarity.api import prompt_streams
from layerwise.errors import UserError, count_noun
from layerwise.ground.layer_names import removable
from layerwise.models.instance.kinds import n_encoder_layers
from layerwise.presentation.wording import protocol_phrase
from layerwise.runs.checkpoints import CheckpointStore, table_rows
from layerwise.runs.controls import asked_blind, item_requests
from layerwise.runs.dry_sweeps import cost_of_sweeps, tell_of_more_memory
from layerwise.runs.executors import LOCAL
from layerwise.runs.progress import Meter, PartMeter, telling_of_piece
from layerwise.runs.records import planned_work
from layerwise.runs.setup import Setup
from layerwise.runs.task_loading import refuse_no_chance
from layerwise.storage.parquet import conform, frame
from layerwise.sweep.plans.cost import Cost
from layerwise.tasks import Task
from layerwise.tasks.items import Item

from .measuring import Layers, TaskRequests, answers, measure_by_task, measure_sets
from .orders import (
    by_angle,
    by_effect,
    by_influence,
    from_the_end,
    largest_removal,
    neighbouring_blocks,
)
from .result import RemovalResult
from .tables import (
    ANGULAR,
    BLOCK,
    BLOCKS,
    DEEP,
    EFFECT,
    SEARCHES,
    best_candidate,
    candidates_table,
    tasks_that_count,
)

# A split of the items, and the layers that are left out in turn.
Piece = tuple[str, tuple[Layers, ...]]
# Rows of ``removal.parquet`` by split and set of layers left out, as they were first measured.
Known = dict[tuple[str, frozenset[int]], pd.DataFrame]


def refuse_bad_share(held_out: float) -> None:
    """Raise unless 0 <= held_out < 1."""
    if not 0 <= held_out < 1:
        raise UserError(
            f"The share of items held out is {held_out}; expected 0 (none) or more, and less "
            "than 1."
        )


@dataclass(frozen=True)
class Removal:
    """A planned removal: every order under every protocol."""

    setup: Setup  # what it starts from
    n_removed: int  # how many layers are removed
    by: tuple[str, ...]  # the orders, of ``WAYS``
    held_out: float  # the share of each task's items that no order sees
    method: str = "engine"  # ``engine`` or ``reference``

    def __post_init__(self) -> None:
        self._refuse_too_many_layers()
        refuse_bad_share(self.held_out)
        for task in self.setup.tasks:  # bad input is refused before any work is done
            refuse_no_chance(task, self.setup.protocols)
            self.split_items(task)
            self.setup.refuse_items(task)

    @property
    def sizes(self) -> tuple[int, int]:
        """Layers of the encoder, 0 if there is none, and of the model."""
        return n_encoder_layers(self.setup.model), self.setup.model.cfg.n_layers

    def _refuse_too_many_layers(self) -> None:
        n_encoder, n_layers = self.sizes
        stay = "one of each stack must stay" if n_encoder else "one must stay"
        for by in self.by:
            most = largest_removal(by, *self.sizes)
            if not 1 <= self.n_removed <= most:
                inside = n_encoder and by in BLOCKS
                within = f", blocks of {by!r} are within one stack" if inside else ""
                raise UserError(
                    f"The number of layers to remove is {self.n_removed}; expected 1 to {most}, "
                    f"because the model has {count_noun(n_layers, 'layer')}{within} and {stay}."
                )

    def settings(self) -> dict[str, Any]:
        """Settings that make it this removal and no other."""
        given = {"by": list(self.by), "n_removed": self.n_removed}
        return given | {"held_out": self.held_out, "method": self.method}

    def run(
        self, parts: CheckpointStore, settings: dict[str, Any], progress: Meter
    ) -> RemovalResult:
        """Make the pieces that are missing, and join all of them."""
        shared: dict[str, Known] = {protocol: {} for protocol in self.setup.protocols}
        orders = [Order(self, p, by, shared[p]) for p in self.setup.protocols for by in self.by]
        # what orders share is counted for each
        pieces = [[(order.protocol, *piece) for piece in order.pieces()] for order in orders]
        listed = list(chain.from_iterable(pieces))
        cost_of = {piece: self.cost(*piece) for piece in dict.fromkeys(listed)}
        every = [cost_of[piece] for piece in listed]
        progress.expect(sum((cost.amount for cost in every), start=0.0))
        tell_of_more_memory(
            self.setup, every, progress,
            lambda roomy, at: replace(self, setup=roomy).cost(*listed[at]),
        )  # fmt: skip
        made = [
            order.run(parts, progress, [cost_of[piece] for piece in of_order])
            for order, of_order in zip(orders, pieces, strict=True)
        ]
        names = dict.fromkeys(f"removal work {name}" for of_order in made for name in of_order)
        work = [parts.read_part(name).to_dict("records")[0] for name in names
                if parts.has_part(name)]  # fmt: skip
        facts = self.setup.facts(settings, [{str(k): v for k, v in w.items()} for w in work])
        tables = [table for of_order in made for table in of_order.values()]
        return RemovalResult(pd.concat(tables, ignore_index=True), facts)

    def cost(self, protocol: str, split: str, tried: Sequence[Layers]) -> Cost:
        """Expected cost of leaving out some sets of layers in turn."""
        evaluated = self.evaluation_requests(self.setup.tasks, split, protocol, tried)
        make = partial(answers, self.setup, evaluated, tried, self.method)
        return cost_of_sweeps(self.setup, self.setup.tasks[0], make)

    def chance(self, task: str, protocol: str) -> float:
        """Accuracy by guessing."""
        return {t.name: t for t in self.setup.tasks}[task].chance[protocol]

    def split_items(self, task: Task) -> dict[str, tuple[Item, ...]]:
        """The items that layers are chosen by, and those held out, drawn by the seed."""
        n = len(task.items)
        n_out = round(self.held_out * n)
        if n_out == n or (self.held_out and not n_out):
            raise UserError(
                f"Of task {task.name!r} {n_out} of {count_noun(n, 'item')} would be held out; "
                "expected at least one item to select by and one held out: take more items, or "
                "hold out none (0)."
            )
        out = set(stats.generator(self.setup.seed, HELD_OUT).permutation(n)[:n_out].tolist())
        return {
            SELECTION: tuple(item for i, item in enumerate(task.items) if i not in out),
            HELD_OUT: tuple(item for i, item in enumerate(task.items) if i in out),
        }

    def evaluation_requests(
        self, tasks: Sequence[Task], split: str, protocol: str, tried: Sequence[Layers]
    ) -> list[TaskRequests]:
        """A split's items as they are asked; blind too beside the intact model."""
        evaluated = []
        for task in tasks:
            items = self.split_items(task)[split]
            requests = item_requests(self.setup, task, items, [protocol])
            blind = asked_blind(self.setup, task, items, [protocol]) if () in tried else []
            evaluated.append(TaskRequests(task, items, requests, blind))
        return evaluated


@dataclass(frozen=True)
class Order:
    """One order under one protocol; sets of layers that orders share are measured once."""

    job: Removal  # what it is an order of
    protocol: str
    by: str  # which order
    # What orders of this protocol have measured so far.
    known: Known = field(repr=False, compare=False)

    def pieces(self) -> list[Piece]:
        """Its pieces as they can be known beforehand, whichever layers go first."""
        n = self.job.n_removed
        sets = tuple(tuple(range(step)) for step in range(1, n + 1))
        further = [sets]
        if self.by in SEARCHES:
            further = [tuple(self._candidates(len(s) + 1, s)) for s in sets[:-1]]
        pieces = [(SELECTION, tried) for tried in (((), *self._singles()), *further)]
        return [*pieces, (HELD_OUT, ((), *sets))] if self.job.held_out else pieces

    def run(
        self, parts: CheckpointStore, progress: Meter, expected: Sequence[Cost]
    ) -> dict[str, pd.DataFrame]:
        """The tables of its pieces, by their names; only the first where no task has signal."""
        job, (first_cost, *costs), singles = self.job, expected, self._singles()
        progress.set_activity(f"removing layers, {self.by}, {protocol_phrase(self.protocol)}")
        make = partial(self._piece, parts, progress)
        name = f"{self.protocol} {'singles' if singles else 'intact'}"
        first = make(name, job.setup.tasks, SELECTION, [(), *singles], first_cost, step=1)
        counting = tasks_that_count(first, job.chance)
        tasks = [task for task in job.setup.tasks if task.name in counting]
        if not tasks:
            progress.expect(-sum((cost.amount for cost in costs), start=0.0))
            return {name: first}
        tables, start = {name: first}, f"{self.protocol} {self.by}"
        if self.by in SEARCHES:
            chosen, baselines = [self._best(first)], first.loc[first["step"] == 0]
            for step, cost in zip(range(2, job.n_removed + 1), costs, strict=False):
                name, tried = f"{start} {step}", self._candidates(step, chosen[-1])
                tables[name] = make(name, tasks, SELECTION, tried, cost, step=step)
                chosen.append(self._best(pd.concat([baselines, tables[name]], ignore_index=True)))
        else:
            chosen, name = self._given_sets(first, tasks), f"{start} steps"
            if left := [layers for layers in chosen if layers not in singles]:
                tables[name] = make(name, tasks, SELECTION, left, costs[0])
        if job.held_out:
            progress.set_activity(
                f"removing layers, {self.by}, {protocol_phrase(self.protocol)}, held-out items"
            )
            name = f"{start} {HELD_OUT}"
            tables[name] = make(name, tasks, HELD_OUT, [(), *chosen], costs[-1])
        return {
            name: table.assign(chosen=[tuple(layers) in chosen for layers in table["layers"]])
            for name, table in tables.items()
        }

    def _singles(self) -> list[Layers]:
        """Sets that the first piece tries beside the intact model."""
        measured = self.by in (*SEARCHES, EFFECT)
        return [(layer,) for layer in removable((), *self.job.sizes)] if measured else []

    def _best(self, measured: pd.DataFrame) -> Layers:
        return best_candidate(candidates_table(measured, self.job.chance))

    def _given_sets(self, first: pd.DataFrame, tasks: Sequence[Task]) -> list[Layers]:
        """The sets of an order that is known before its steps are measured."""
        n = self.job.n_removed
        if self.by == DEEP:
            return from_the_end(n, *self.job.sizes)
        if self.by == EFFECT:
            return by_effect(candidates_table(first, self.job.chance), n, *self.job.sizes)
        read = [
            prompt_streams(
                self.job.setup, task, self.job.split_items(task)[SELECTION], self.protocol
            )
            for task in tasks
        ]
        return (by_angle if self.by == ANGULAR else by_influence)(read, n)

    def _candidates(self, step: int, removed: Layers) -> list[Layers]:
        """Sets that can be left out at a step of a search, counted by layers left out."""
        if self.by == BLOCK:
            return neighbouring_blocks(step, *self.job.sizes)
        return [(*removed, layer) for layer in removable(removed, *self.job.sizes)]

    def _piece(
        self, parts: CheckpointStore, progress: Meter, name: str, tasks: Sequence[Task],
        split: str, tried: Sequence[Layers], cost: Cost, **more: Any,
    ) -> pd.DataFrame:  # fmt: skip
        """A piece with nothing chosen, made unless it is there, without what others measured."""
        fresh = [layers for layers in tried if not self._knows(split, layers, tasks)]
        if not fresh or parts.has_part(f"removal {name}", f"removal work {name}"):
            progress.add_work(cost.amount)
        else:
            table, work = self._make(parts, progress, name, tasks, split, fresh, cost.amount)
            if len(fresh) < len(tried):
                cost = self.job.cost(self.protocol, split, fresh)
            work = {**work, "protocol": self.protocol, **more, **planned_work(cost)}
            parts.write_part(f"removal work {name}", pd.DataFrame([work]))
            parts.write_part(f"removal {name}", table)
        if fresh:
            made = table_rows(parts, "removal", [f"removal {name}"])
            of_row = made["layers"].map(frozenset)
            self.known.update({
                (split, layers): made.loc[of_row == layers] for layers in map(frozenset, fresh)
            })  # fmt: skip
        tables = []
        for layers in tried:
            rows = self.known[split, frozenset(layers)]
            same = {"layers": [list(layers)] * len(rows), "by": self.by, "chosen": False}
            tables.append(rows.assign(**same))
        every = pd.concat(tables, ignore_index=True)
        of_tasks = [every.loc[every["task"] == task.name] for task in tasks]
        return conform("removal", pd.concat(of_tasks, ignore_index=True))

    def _knows(self, split: str, layers: Layers, tasks: Sequence[Task]) -> bool:
        rows = self.known.get((split, frozenset(layers)))
        return rows is not None and {task.name for task in tasks} <= set(rows["task"])

    def _make(
        self, parts: CheckpointStore, progress: Meter, name: str, tasks: Sequence[Task],
        split: str, tried: Sequence[Layers], amount: float,
    ) -> tuple[pd.DataFrame, dict[str, Any]]:  # fmt: skip
        """As ``_measure``, by whoever makes the run's pieces; tells how much of it is done."""
        executor = self.job.setup.executor
        if executor is LOCAL:
            with telling_of_piece(progress, amount):
                return self._measure(tasks, split, tried)
        measure = partial(replace(self, known={})._measure, split=split, tried=tried)
        part = PartMeter(progress, amount)
        return measure_by_task(executor, parts, part, name, tasks, measure, amount)

    def _measure(
        self, tasks: Sequence[Task], split: str, tried: Sequence[Layers]
    ) -> tuple[pd.DataFrame, dict[str, Any]]:
        """Evaluate a split of all tasks without each set of layers, in one sweep."""
        job = self.job
        evaluated = job.evaluation_requests(tasks, split, self.protocol, tried)
        rows, work = measure_sets(job.setup, evaluated, tried, job.method)
        same = {"by": self.by, "split": split, "chosen": False}
        return frame("removal", [row | same for row in rows]), {**work, "items": split}
