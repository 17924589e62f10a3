"""The answers without some sets of layers, with the controls beside those of the intact model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import pandas as pd

from layerwise.models.instance.kinds import Model
from layerwise.runs.checkpoints import (
    CheckpointStore,
    Machine,
    machines_used,
    note_machine,
    table_rows,
)
from layerwise.runs.controls import (
    BlindItem,
    blind_answers,
    blind_rows,
    guessed_rows,
    without_layers,
)
from layerwise.runs.dry_sweeps import Sweeper
from layerwise.runs.executors import Executor, WorkUnit, make_missing
from layerwise.runs.pieces import joined_work
from layerwise.runs.progress import Meter
from layerwise.runs.records import record_rows, work_entry
from layerwise.runs.setup import Setup
from layerwise.sweep import Intervention, Sweep, intact, skip_layers
from layerwise.tasks import Task, TaskRequest
from layerwise.tasks.items import Item

Layers = tuple[int, ...]
_KEPT = (
    "intervention", "kind", "task", "capability", "item", "protocol", "correct", "gold_logprob",
    "cluster",
)  # fmt: skip
Measure = Callable[[Sequence[Task]], tuple[pd.DataFrame, dict[str, Any]]]


class TaskRequests(NamedTuple):
    """Some items of a task, under one protocol."""

    task: Task  # the task
    items: Sequence[Item]  # the items
    requests: list[TaskRequest]  # what is put to the model for them
    blind: list[BlindItem]  # the items under other items' questions, if these are evaluated


def removal_changes(model: Model, tried: Sequence[Layers]) -> list[Intervention]:
    """An intervention for each set of layers; beside the intact model also that without any."""
    changes = [skip_layers(layers) if layers else intact() for layers in tried]
    return [*changes, without_layers(model)] if () in tried else changes


def answers(
    setup: Setup, evaluated: Sequence[TaskRequests], tried: Sequence[Layers], method: str,
    by: Sweeper,
) -> list[Sweep]:  # fmt: skip
    """The answers without some sets of layers in turn, and those to other items' questions."""
    put = [request.request for of_task in evaluated for request in of_task.requests]
    blind = [request for of_task in evaluated for request in of_task.blind]
    swept = by.sweep(removal_changes(setup.model, tried), put, method)
    return [swept, *blind_answers(by, blind, method)]


def measure_sets(
    setup: Setup, evaluated: Sequence[TaskRequests], tried: Sequence[Layers], method: str
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows of ``removal.parquet`` without order, split and choice, and the work that they took."""
    changes = removal_changes(setup.model, tried)
    layers_of = dict(zip((change.id for change in changes), map(list, tried), strict=False))
    swept, *others = answers(setup, evaluated, tried, method, setup)
    rows: list[dict[str, Any]] = []
    parts = _parts(swept, [len(of_task.requests) for of_task in evaluated])
    for (task, items, requests, _), part in zip(evaluated, parts, strict=True):
        rows += record_rows(task, items, requests, changes, part)
    sizes = [sum(len(item.requests) for item in of_task.blind) for of_task in evaluated]
    for other in others:
        for of_task, part in zip(evaluated, _parts(other, sizes), strict=True):
            rows += blind_rows(of_task.task, of_task.blind, part)
    if () in tried:
        for task, items, requests, _ in evaluated:
            protocols = dict.fromkeys(request.protocol for request in requests)
            rows += guessed_rows(setup, task, items, tuple(protocols))
    kept = []
    for row in rows:
        removed = layers_of.get(row["intervention"], [])
        kept.append({name: row[name] for name in _KEPT} | {"layers": removed, "step": len(removed)})
    names = ", ".join(of_task.task.name for of_task in evaluated)
    spent = sum((other.stats for other in others), start=swept.stats)
    return kept, work_entry("layer removal", names, spent)


def _parts(swept: Sweep, sizes: Sequence[int]) -> Iterator[Sweep]:
    """The outcomes of each task's requests, which follow each other."""
    outcomes = [iter(of_change) for of_change in swept.outcomes]
    for size in sizes:
        yield replace(swept, outcomes=[list(islice(of_change, size)) for of_change in outcomes])


def measure_by_task(
    executor: Executor, parts: CheckpointStore, progress: Meter, name: str,
    tasks: Sequence[Task], measure: Measure, amount: float,
) -> tuple[pd.DataFrame, dict[str, Any]]:  # fmt: skip
    """The table and the work of a piece, its tasks measured apart, each a share of it."""
    apart = CheckpointStore()
    largest_first = sorted(tasks, key=lambda task: -len(task.items))
    n_items = sum(len(task.items) for task in tasks)
    works = [
        WorkUnit(_names(name, task), f"removing layers: {task.name}", share, (task,))
        for task in largest_first
        for share in [amount * len(task.items) / n_items]
    ]
    make_missing(executor, apart, progress, works, partial(_tables, measure, name))
    for machine in machines_used(apart):
        for piece in machine["pieces"]:
            made_under = machine.get("environment", {})
            note_machine(parts, piece, Machine(machine["machine"], machine["device"], made_under))
    table = table_rows(apart, "removal", [_names(name, task)[1] for task in tasks])
    work: Any = [apart.read_part(_names(name, task)[0]) for task in tasks]
    same = {key: work[0][key].iloc[0] for key in ("analysis", "items")}
    (whole,) = joined_work([table.drop(columns="items").assign(task="") for table in work])
    return table, {**whole, **same, "task": ", ".join(task.name for task in tasks)}


def _names(name: str, task: Task) -> tuple[str, str]:
    return f"removal work {name}, {task.name}", f"removal {name}, {task.name}"


def _tables(measure: Measure, name: str, task: Task) -> dict[str, pd.DataFrame]:
    table, work = measure([task])
    return dict(zip(_names(name, task), (pd.DataFrame([work]), table), strict=True))
