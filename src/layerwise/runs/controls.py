"""Controls that a model and its losses are measured by.

Other items' questions, a guesser that reads no question, and the model without any layer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import chain, product
from pathlib import Path
from typing import Any, NamedTuple

from layerwise.errors import UserError
from layerwise.models.instance.kinds import Model
from layerwise.stats.effects import BLIND, GUESSER, GUESSER_AT_CHANCE, NO_LAYERS
from layerwise.sweep import Intervention, Sweep, SweepStats, intact, skip_layers
from layerwise.tasks import Task, TaskRequest
from layerwise.tasks.blind import guesser_answers
from layerwise.tasks.items import Item
from layerwise.tasks.scoring import Score

from .dry_sweeps import Sweeper
from .records import record_rows, write_requests
from .setup import Setup


class BlindItem(NamedTuple):
    """An item under another item's question, under one protocol."""

    item: Item
    name: str  # what stands in the records for an intervention
    changed: Item  # the item with the other question
    requests: tuple[TaskRequest, ...]  # what is put to the model


def item_requests(
    setup: Setup, task: Task, items: Iterable[Item], protocols: Sequence[str]
) -> list[TaskRequest]:
    """Requests that put some items to the model, under each protocol in turn."""
    return [
        request
        for item in items
        for protocol in protocols
        for request in setup.requests(task, item, protocol)
    ]


def asked_blind(
    setup: Setup, task: Task, items: Sequence[Item], protocols: Sequence[str]
) -> list[BlindItem]:
    """Items under other items' questions, which the run's seed decides."""
    others = setup.built.other_questions(task, setup.seed)
    blind = []
    for item in items:
        for (number, other), protocol in product(enumerate(others[item.id], 1), protocols):
            with contextlib.suppress(UserError):  # too long for the model
                requests = setup.requests(task, other, protocol)
                blind.append(BlindItem(item, f"{BLIND}:{number}", other, requests))
    return blind


def with_another_question(setup: Setup, task: Task, items: Iterable[Item]) -> dict[str, Item]:
    """Items under the first of the other questions that ``asked_blind`` asks."""
    # One is enough where the model says one thing of many, and seldom the right one by luck.
    others = setup.built.other_questions(task, setup.seed)
    return {item.id: others[item.id][0] for item in items if others[item.id]}


def blind_answers(
    by: Sweeper, blind_items: Sequence[BlindItem], method: str = "engine"
) -> list[Sweep]:
    """The intact model's answers to other items' questions; no sweep if there are none."""
    requests = [request.request for item in blind_items for request in item.requests]
    return [by.sweep([intact()], requests, method)] if requests else []


def blind_rows(
    task: Task, blind_items: Sequence[BlindItem], swept: Sweep
) -> Iterator[dict[str, Any]]:
    """Records of the intact model that was asked other items' questions."""
    requests = [request for item in blind_items for request in item.requests]
    by_request = {(item.changed.id, item.requests[0].protocol): item for item in blind_items}
    changed = [item.changed for item in blind_items]
    for row in record_rows(task, changed, requests, [intact()], swept):
        item = by_request[row["item"], row["protocol"]]
        yield row | {"item": item.item.id, "intervention": item.name, "kind": BLIND}


def guessed_rows(
    setup: Setup, task: Task, items: Sequence[Item], protocols: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Records of the guesser that reads no question, under each protocol."""
    # It is fitted on the whole task (``tasks.blind``). No model is run.
    alone = not any(setup.built.other_questions(task, setup.seed).values())
    for protocol in protocols:
        key = (setup.tokenizer, "guesser", task.hash, len(task.unasked), protocol == "generate")
        guess = partial(guesser_answers, task, protocol, tokenizer=setup.tokenizer, alone=alone)
        answers = setup.built.get_or_encode_kept(key, guess)
        if answers is None:
            continue
        kind = GUESSER if answers.is_control else GUESSER_AT_CHANCE
        for item in items:
            yield {
                "intervention": f"{GUESSER}: {answers.rule}",
                "kind": kind,
                "layers": [],
                "task": task.name,
                "capability": task.capability,
                "item": item.id,
                "cluster": item.cluster,
                "protocol": protocol,
                **asdict(Score(correct=answers.right[item.id])),
            }


def as_controls(rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Records, of which those without any layer are of no layer in particular."""
    nowhere = {"site": None, "layer": None, "layers": []}
    for row in rows:
        yield row | nowhere if row["kind"] == NO_LAYERS else row


def without_layers(model: Model) -> Intervention:
    """All layers skipped: the floor that a loss by other changes is measured against."""
    return replace(skip_layers(range(model.cfg.n_layers)), id=NO_LAYERS, kind=NO_LAYERS)


def answers_as_is(
    setup: Setup, task: Task, protocols: Sequence[str], method: str, by: Sweeper
) -> list[Sweep]:
    """A model's answers as it is and without any layer, and those to other items' questions."""
    requests = [each.request for each in item_requests(setup, task, task.items, protocols)]
    swept = by.sweep([intact(), without_layers(setup.model)], requests, method)
    blind = asked_blind(setup, task, task.items, protocols)
    return [swept, *blind_answers(by, blind, method)]


def records_as_is(
    setup: Setup, task: Task, protocols: Sequence[str], method: str, by: Setup
) -> tuple[list[dict[str, Any]], list[SweepStats]]:
    """Records of ``answers_as_is``, and what each sweep cost."""
    swept, *others = answers_as_is(setup, task, protocols, method, by)
    requests = item_requests(setup, task, task.items, protocols)
    alone = [intact(), without_layers(setup.model)]
    rows = list(as_controls(record_rows(task, task.items, requests, alone, swept)))
    for sweep in others:
        rows += blind_rows(task, asked_blind(setup, task, task.items, protocols), sweep)
    return rows, [sweep.stats for sweep in (swept, *others)]


def write_all_requests(setup: Setup, folder: Path) -> None:
    """Write all that a model is asked, item by item, and then other items' questions."""
    every = [(task, item) for task in setup.tasks for item in task.items]
    asked = (
        one for task, item in every for one in item_requests(setup, task, [item], setup.protocols)
    )
    blind = (
        request
        for task, item in every
        for blind_item in asked_blind(setup, task, [item], setup.protocols)
        for request in blind_item.requests
    )
    write_requests(chain(asked, blind), folder)
