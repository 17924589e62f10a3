"""A planned transplant: both models as they are, then each of them with layers of the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd

from layerwise.analyses.ablation.job import ITEMS_AT_ONCE
from layerwise.analyses.shared.left_out import HELD_OUT, SELECTION
from layerwise.models.instance.kinds import Model
from layerwise.models.weights.footprint import weight_bytes
from layerwise.presentation.rows import rows
from layerwise.runs.checkpoints import CheckpointStore, rows_of
from layerwise.runs.controls import (
    answers_as_is,
    asked_blind,
    guessed_rows,
    records_as_is,
    requests_of,
)
from layerwise.runs.dry_sweeps import Sweeper, cost_of_sweeps
from layerwise.runs.pieces import Recorded, joined_work, make_pieces
from layerwise.runs.progress import Meter
from layerwise.runs.records import record_rows, work_entry, write_requests
from layerwise.runs.setup import Setup
from layerwise.runs.task_loading import refuse_no_chance
from layerwise.storage.parquet import frame
from layerwise.sweep import Intervention, Sweep
from layerwise.sweep.changes.interventions import with_weights
from layerwise.sweep.checks.faithful import check_faithful
from layerwise.sweep.plans.cost import Cost
from layerwise.tasks import Task, TaskRequest

from .gaps import gaps_table
from .greedy import best_of, hosts_with_gaps, parted
from .names import ACTIVATIONS, HOSTS, WEIGHTS
from .result import TransplantResult
from .spec import Change, TransplantSpec
from .weights import (
    Exchange,
    distances,
    donated,
    is_alone,
    patched_with,
    swept_with_donor,
    transplanted,
)

_KEPT = (
    "intervention", "kind", "site", "layer", "layers", "task", "capability", "item", "protocol",
    "correct", "correct_norm", "gold_logprob", "margin", "generated", "extracted", "chosen",
    "cluster",
)  # fmt: skip


@dataclass(frozen=True)
class Piece:
    """Work that is finished and saved together.

    Attributes:
        host: the model that answers, ``base`` or ``other``.
        task: the task, or with changes of weights a part of its items.
        protocols: the protocols of its requests.
        changes: what it gets of the other model, in one sweep: changes of weights, or of
            activations; none for the model as it is, with its controls.
        split: of a greedy search, which part of the items it answers.
    """

    host: str
    task: Task
    protocols: tuple[str, ...]
    changes: tuple[Change, ...] = ()
    split: str | None = None

    @property
    def exchange(self) -> str | None:
        """What is exchanged; None if nothing is."""
        return self.changes[0].exchange if self.changes else None

    @property
    def name(self) -> str:
        """Unique within a run."""
        of = f" {self.protocols[0]} {self.split} items" if self.split else ""
        if self.exchange != WEIGHTS:
            return f"transplant, {self.host} {self.exchange or 'intact'} {self.task.name}{of}"
        what, n = self.changes[0].id, len(self.changes)
        if n > 1:
            what += f" to {self.changes[-1].id}, {n} in all,"
        return f"transplant, {self.host} {what} {self.task.name} {self.task.items[0].id}{of}"


@dataclass(frozen=True)
class Transplant:
    """A planned transplant.

    Attributes:
        base: what it starts from, with the base model.
        other: the same with the other model.
        spec: what is put from one into the other.
        method: ``engine`` or ``reference``.
    """

    base: Setup
    other: Setup
    spec: TransplantSpec
    method: str = "engine"

    def __post_init__(self) -> None:
        for task in self.base.tasks:  # bad input is refused before any work is done
            self.base.refuse_items(task)
            refuse_no_chance(task, self.base.protocols)
            if self.spec.greedy:
                parted(task, self.spec.held_out, self.base.seed)

    @property
    def setup(self) -> Setup:
        """What it starts from."""
        return self.base

    @cached_property
    def _exchanges(self) -> dict[str, Exchange]:
        models = (self.base.model, self.other.model)
        pairs = zip(HOSTS, models, reversed(models), strict=True)
        return {name: Exchange(host, donor) for name, host, donor in pairs}

    @cached_property
    def _setups(self) -> dict[str, Setup]:
        return dict(zip(HOSTS, (self.base, self.other), strict=True))

    def settings(self) -> dict[str, Any]:
        """What makes it this run and no other."""
        return {
            "other": self.other.loaded.name,
            "other_hash": self.other.loaded.hash,
            **self.spec.settings(),
            "method": self.method,
        }

    def run(
        self, parts: CheckpointStore, settings: dict[str, Any], progress: Meter
    ) -> TransplantResult:
        """Make the pieces that are missing, and join all of them."""
        first = [
            Piece(host, task, self.base.protocols) for task in self.base.tasks for host in HOSTS
        ]
        self._make(first, parts, progress)
        intact_records = rows_of(parts, "transplant", [f"records {piece.name}" for piece in first])
        gaps = self._gaps(intact_records)
        changed = list(self._pieces(gaps))
        self._make(changed, parts, progress)
        pieces = [*first, *changed, *self._searched(gaps, parts, progress)]
        work = [parts.read_part(f"work {piece.name}") for piece in pieces]
        apart = distances(self.base.model, self.other.model, self.spec.site)
        return TransplantResult(
            rows_of(parts, "transplant", [f"records {piece.name}" for piece in pieces]),
            frame("transplant_distances", apart),
            self.base.facts(settings, joined_work(work)),
        )

    def expected(self, task: Task, /, *protocols: str) -> Cost:
        """What a task is expected to cost under some protocols, at most: with a gap in all."""
        pieces = [Piece(host, task, protocols) for host in HOSTS]
        pieces += self._of_task(task, protocols)
        return sum((self._cost(piece) for piece in pieces), start=Cost())

    def _gaps(self, intact_records: pd.DataFrame) -> pd.DataFrame:
        chances = {task.name: task.chance for task in self.base.tasks}
        return gaps_table(intact_records, lambda task, name: chances[task][name], self.base.seed)

    def _searched(
        self, gaps: pd.DataFrame, parts: CheckpointStore, progress: Meter
    ) -> Iterator[Piece]:
        """The pieces of greedy searches, made as they come: each step needs the one before."""
        if not self.spec.greedy:
            return
        tasks = {task.name: task for task in self.base.tasks}
        for name, protocol, host, direction in hosts_with_gaps(gaps):
            halves = parted(tasks[name], self.spec.held_out, self.base.seed)
            piece = partial(self._steps, host, protocol, halves)
            chosen: tuple[int, ...] = ()
            for _ in range(self.spec.greedy):
                left = [i for i in range(len(self.spec.layers)) if i not in chosen]
                tried = piece([(*chosen, i) for i in left], SELECTION)
                self._make(tried, parts, progress)
                yield from tried
                records = rows_of(parts, "transplant", [f"records {piece.name}" for piece in tried])
                ids = [self.spec.chosen((*chosen, i)).id for i in left]
                best = best_of([rows(records, intervention=name) for name in ids], direction)
                chosen = (*chosen, left[best])
            held_out = piece([chosen[: i + 1] for i in range(len(chosen))], HELD_OUT)
            self._make(held_out, parts, progress)
            yield from held_out

    def _steps(
        self, host: str, protocol: str, halves: Mapping[str, Task],
        chosen: Sequence[tuple[int, ...]], split: str,
    ) -> list[Piece]:  # fmt: skip
        """Greedy steps with some layers each, numbers in those of ``spec``, on a part of items."""
        changes = [self.spec.chosen(places) for places in chosen]
        return list(self._cut(host, halves[split], (protocol,), changes, split))

    def _pieces(self, gaps: pd.DataFrame) -> Iterator[Piece]:
        """What is worth exchanging: only where the two models differ is there a gap to move."""
        with_gap = gaps.loc[gaps["found"]]
        for task in self.base.tasks:
            names = set(with_gap.loc[with_gap["task"] == task.name, "protocol"])
            protocols = tuple(name for name in self.base.protocols if name in names)
            if protocols:
                yield from self._of_task(task, protocols)

    def _of_task(self, task: Task, protocols: tuple[str, ...]) -> Iterator[Piece]:
        """All changes of both models, asked of a task."""
        changes = self.spec.changes()
        weights = [change for change in changes if change.exchange == WEIGHTS]
        streams = tuple(change for change in changes if change.exchange == ACTIVATIONS)
        for host in HOSTS:
            yield from self._cut(host, task, protocols, weights)
            if streams:
                yield Piece(host, task, protocols, streams)

    def _cut(
        self, host: str, task: Task, protocols: tuple[str, ...], changes: Sequence[Change],
        split: str | None = None,
    ) -> Iterator[Piece]:  # fmt: skip
        """Changes of weights that are made in one sweep, of some items at once."""
        writes, budget = "generate" in protocols, self.base.memory_budget
        for some in self._exchanges[host].together(changes, writes, budget):
            for start in range(0, len(task.items), ITEMS_AT_ONCE):
                part = replace(task, items=task.items[start : start + ITEMS_AT_ONCE])
                yield Piece(host, part, protocols, some, split)

    def _make(self, pieces: Sequence[Piece], parts: CheckpointStore, progress: Meter) -> None:
        make_pieces(
            self.base.executor, parts, progress, pieces,
            lambda one: f"transplanting: {one.task.name}", self._cost, self._measure,
        )  # fmt: skip

    def _requests(self, task: Task, protocols: Sequence[str]) -> list[TaskRequest]:
        return requests_of(self.base, task, task.items, protocols)

    def _measure(self, piece: Piece) -> Recorded:
        """The records of a piece, and what they cost."""
        task = piece.task
        if piece.changes:
            changes = self._changes(piece)
            if piece.exchange == WEIGHTS:  # blocks are run by the engine as the host's are
                check_faithful(self._donor(piece), self.method)
            with self._in_place(piece):
                swept = self._answers(piece, changes, self._setups[piece.host])
            of = dict(zip((change.id for change in changes), piece.changes, strict=True))
            requests = self._requests(task, piece.protocols)
            rows = [
                row | _as_change(of[row["intervention"]])
                for row in record_rows(task, task.items, requests, changes, swept)
            ]
            stats = [swept.stats]
        else:
            setup = self._setups[piece.host]
            rows, stats = records_as_is(self.base, task, piece.protocols, self.method, setup)
            rows += guessed_rows(self.base, task, task.items, piece.protocols)
        work = pd.DataFrame([work_entry("transplant", task.name, each) for each in stats])
        kept = [
            {name: row[name] for name in _KEPT}
            | {"host": piece.host, "split": piece.split}
            | {name: row.get(name) for name in ("set", "t", "head", "heads", "exchange")}
            | {"step": len(row["layers"]) if piece.split else None}
            for row in rows
        ]  # fmt: skip
        return frame("transplant", kept), joined_work([work])[0]

    def _changes(self, piece: Piece) -> list[Intervention]:
        """What is exchanged as what a sweep makes of it; nothing where it is done in place."""
        if piece.exchange == ACTIVATIONS:
            return [patched_with(change, self._donor(piece)) for change in piece.changes]
        return [
            with_weights(change.id, change.site, ())
            if is_alone(change)
            else self._exchanges[piece.host].intervention(change)
            for change in piece.changes
        ]

    def _answers(self, piece: Piece, changes: Sequence[Intervention], by: Sweeper) -> Sweep:
        """The answers of a model with layers of the other, or with what the other has there."""
        requests = [request.request for request in self._requests(piece.task, piece.protocols)]
        if piece.exchange == ACTIVATIONS:
            return swept_with_donor(by, changes, requests, self.method)
        return by.sweep(changes, requests, self.method)

    def _in_place(self, piece: Piece) -> AbstractContextManager[object]:
        """With weights changed in the model itself that no branch of a sweep can have."""
        one, host, donor = piece.changes[0], self._setups[piece.host].model, self._donor(piece)
        if piece.exchange == ACTIVATIONS or not is_alone(one):
            return nullcontext()
        return transplanted(host, donor, one.site, one.layers, one.t, one.heads)

    def _donor(self, piece: Piece) -> Model:
        """The other model."""
        return next(setup.model for name, setup in self._setups.items() if name != piece.host)

    def _cost(self, piece: Piece) -> Cost:
        """What a piece is expected to cost."""
        setup = self._setups[piece.host]
        make = partial(answers_as_is, self.base, piece.task, piece.protocols, self.method)
        if piece.changes:
            make = partial(self._answers, piece, self._changes(piece))
        cost = cost_of_sweeps(setup, piece.task, make)
        return replace(cost, weight_bytes=self._weight_bytes(piece))

    def _weight_bytes(self, piece: Piece) -> int:
        """Weights of both models, and those that are made of both: all while texts are written."""
        setup, donor = self._setups[piece.host], self._donor(piece)
        made = [
            donated(setup.model, donor, c.site, c.layers, c.t, c.heads).copied_bytes
            for c in piece.changes
            if c.exchange == WEIGHTS
        ]
        copied = sum(made) if "generate" in piece.protocols else max(made, default=0)
        return sum(weight_bytes(one.model) for one in self._setups.values()) + copied

    def write_requests(self, folder: Path) -> None:
        """Write exactly what was put to the models, one line per request."""
        tasks, protocols = self.base.tasks, self.base.protocols
        requests = (
            request
            for task in tasks
            for item in task.items
            for request in requests_of(self.base, task, [item], protocols)
        )
        blind = (
            request
            for task in tasks
            for item in task.items
            for blind in asked_blind(self.base, task, [item], protocols)
            for request in blind.requests
        )
        write_requests(chain(requests, blind), folder)


def _as_change(change: Change) -> dict[str, Any]:
    """What records say of a change, in place of the intact model."""
    return {
        "intervention": change.id,
        "kind": "transplant",
        "site": change.site,
        "layer": change.layer,
        "layers": list(change.layers),
        "head": change.head,
        "heads": list(change.heads) or None,
        "exchange": change.exchange,
        "set": change.set,
        "t": change.t,
    }
