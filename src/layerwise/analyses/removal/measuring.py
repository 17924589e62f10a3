"""The answers without some sets of layers, with the controls beside those of the intact model.

Which sets are tried is the business of ``job``; what follows from the answers is in ``tables``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, NamedTuple

from layerwise.models.kinds import Model
from layerwise.runs.controls import BlindItem, asked_blind, blind_rows, guessed_rows, without_layers
from layerwise.runs.records import record_rows, work_entry
from layerwise.runs.setup import Setup
from layerwise.sweep import Intervention, Sweep, intact, skip_layers
from layerwise.sweep.cost import Cost
from layerwise.tasks import Task, TaskRequest
from layerwise.tasks.items import Item

Layers = tuple[int, ...]
_KEPT = (
    "intervention", "kind", "task", "capability", "item", "protocol", "correct", "gold_logprob",
    "cluster",
)  # fmt: skip


class Asked(NamedTuple):
    """Some items of a task, under one protocol.

    Attributes:
        task: the task.
        items: the items.
        requests: what is put to the model for them.
        blind: the items under other items' questions, if these are asked.
    """

    task: Task
    items: Sequence[Item]
    requests: list[TaskRequest]
    blind: list[BlindItem]


def asked_of(
    setup: Setup, task: Task, items: Sequence[Item], protocol: str, tried: Sequence[Layers]
) -> Asked:
    """Items as they are asked without some sets of layers; blind beside the intact model alone."""
    requests = [r for item in items for r in setup.requests(task, item, protocol)]
    blind = asked_blind(setup, task, items, [protocol]) if () in tried else []
    return Asked(task, items, requests, blind)


def changes_of(model: Model, tried: Sequence[Layers]) -> list[Intervention]:
    """An intervention for each set of layers; beside the intact model also that without any."""
    changes = [skip_layers(layers) if layers else intact() for layers in tried]
    return [*changes, without_layers(model)] if () in tried else changes


def cost_of_sets(setup: Setup, asked: Sequence[Asked], tried: Sequence[Layers]) -> Cost:
    """What it is expected to cost to leave out some sets of layers in turn."""
    put = [one.request for each in asked for one in each.requests]
    cost = setup.cost(setup.tasks[0], changes_of(setup.model, tried), put)
    blind = _blind_requests(asked)
    return cost + setup.cost(setup.tasks[0], [intact()], blind) if blind else cost


def _blind_requests(asked: Sequence[Asked]) -> list[Any]:
    return [r.request for each in asked for one in each.blind for r in one.requests]


def measured(
    setup: Setup, asked: Sequence[Asked], tried: Sequence[Layers], method: str
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows of ``removal.parquet`` without order, split and choice, and the work that they took."""
    changes = changes_of(setup.model, tried)
    layers_of = dict(zip((change.id for change in changes), map(list, tried), strict=False))
    put = [one.request for each in asked for one in each.requests]
    swept = setup.sweep(changes, put, method)
    rows: list[dict[str, Any]] = []
    for each, part in _by_task(swept, asked, [len(each.requests) for each in asked]):
        rows += record_rows(each.task, each.items, each.requests, changes, part)
    spent = swept.stats
    if blind := _blind_requests(asked):
        swept = setup.sweep([intact()], blind, method)
        sizes = [sum(len(one.requests) for one in each.blind) for each in asked]
        for each, part in _by_task(swept, asked, sizes):
            rows += blind_rows(each.task, each.blind, part)
        spent += swept.stats
    if () in tried:
        for each in asked:
            protocols = dict.fromkeys(request.protocol for request in each.requests)
            rows += guessed_rows(setup, each.task, each.items, tuple(protocols))
    names = ", ".join(each.task.name for each in asked)
    layers = [layers_of.get(row["intervention"], []) for row in rows]
    kept = [
        {name: row[name] for name in _KEPT} | {"layers": mine, "step": len(mine)}
        for row, mine in zip(rows, layers, strict=True)
    ]
    return kept, work_entry("layer removal", names, spent)


def _by_task(
    swept: Sweep, asked: Sequence[Asked], sizes: Sequence[int]
) -> Iterable[tuple[Asked, Sweep]]:
    """The outcomes of each task's requests, which follow each other."""
    outcomes = [iter(found) for found in swept.outcomes]
    for each, size in zip(asked, sizes, strict=True):
        yield each, replace(swept, outcomes=[list(islice(found, size)) for found in outcomes])
