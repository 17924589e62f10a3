"""A planned transplant: both models as they are, then each of them with layers of the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import product
from typing import Any

import pandas as pd

from layerwise.analyses.ablation.job import ITEMS_AT_ONCE
from layerwise.analyses.shared.left_out import HELD_OUT, SELECTION
from layerwise.models.decoder.packed import weight_bytes
from layerwise.presentation.rows import records, rows
from layerwise.runs.checkpoints import CheckpointStore, table_rows
from layerwise.runs.controls import (
    answers_as_is,
    guessed_rows,
    item_requests,
    records_as_is,
)
from layerwise.runs.dry_sweeps import Sweeper, cost_of_sweeps
from layerwise.runs.pieces import Recorded, joined_work, make_pieces
from layerwise.runs.progress import Meter
from layerwise.runs.records import record_rows, work_entry
from layerwise.runs.setup import Setup
from layerwise.runs.task_loading import refuse_no_chance
from layerwise.storage.parquet import frame
from layerwise.storage.schemas import SCHEMAS
from layerwise.sweep import Sweep
from layerwise.sweep.checks.faithful import check_faithful
from layerwise.sweep.plans.cost import Cost
from layerwise.tasks import Task

from .exchange.names import ACTIVATIONS, BASE, BRINGS, DESTROYS, HOSTS, OTHER, WEIGHTS
from .exchange.spec import Change, TransplantSpec
from .exchange.weights import Exchange, distances, is_alone, sweep_with_donor
from .result import TransplantResult
from .tables import DESCRIBED, best_change, gaps_table, split_by_cluster, with_gap


@dataclass(frozen=True)
class TransplantPiece:
    """Work that is finished and saved together."""

    host: str  # the model that answers, ``base`` or ``other``
    task: Task  # the task, or with changes of weights a part of its items
    protocols: tuple[str, ...]  # the protocols of its requests
    # What it gets of the other model, in one sweep: changes of weights, or of activations; none for
    # the model as it is, with its controls.
    changes: tuple[Change, ...] = ()
    split: str | None = None  # of a greedy search, which part of the items it answers

    @property
    def exchange(self) -> str | None:
        """Exchange that the piece makes; None if none."""
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
    """A planned transplant."""

    setup: Setup  # what it starts from, with the base model
    other: Setup  # the same with the other model
    spec: TransplantSpec  # what is put from one into the other
    method: str = "engine"  # ``engine`` or ``reference``

    def __post_init__(self) -> None:
        for task in self.setup.tasks:  # bad input is refused before any work is done
            self.setup.refuse_items(task)
            refuse_no_chance(task, self.setup.protocols)
            if self.spec.greedy:
                split_by_cluster(task, self.spec.held_out, self.setup.seed)

    @cached_property
    def _hosts(self) -> dict[str, tuple[Setup, Exchange]]:
        """By name, what a model starts from and what it gets of the other."""
        base, other = self.setup.model, self.other.model
        return {
            BASE: (self.setup, Exchange(base, other)),
            OTHER: (self.other, Exchange(other, base)),
        }

    def settings(self) -> dict[str, Any]:
        """Settings that make it this run and no other."""
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
        intact = [
            TransplantPiece(host, task, self.setup.protocols)
            for task in self.setup.tasks
            for host in HOSTS
        ]
        chances = {task.name: task.chance for task in self.setup.tasks}
        gaps = gaps_table(
            self._make_records(intact, parts, progress), lambda task, name: chances[task][name],
            self.setup.seed,
        )  # fmt: skip
        changed = list(self._pieces(gaps))
        self._make_records(changed, parts, progress)
        pieces = [*intact, *changed, *self._search_pieces(gaps, parts, progress)]
        work = [parts.read_part(f"work {piece.name}") for piece in pieces]
        apart = distances(self.setup.model, self.other.model, self.spec.site)
        return TransplantResult(
            table_rows(parts, "transplant", [f"records {piece.name}" for piece in pieces]),
            frame("transplant_distances", apart),
            self.setup.facts(settings, joined_work(work)),
        )

    def expected_cost(self, task: Task, /, *protocols: str) -> Cost:
        """Expected cost of a task under some protocols, at most: with a gap in all."""
        pieces = [TransplantPiece(host, task, protocols) for host in HOSTS]
        pieces += self._task_pieces(task, protocols)
        return sum((self._cost(piece) for piece in pieces), start=Cost())

    def _search_pieces(
        self, gaps: pd.DataFrame, parts: CheckpointStore, progress: Meter
    ) -> Iterator[TransplantPiece]:
        """The pieces of greedy searches, made as they come: each step needs the one before."""
        if not self.spec.greedy:
            return
        tasks, every = {task.name: task for task in self.setup.tasks}, range(len(self.spec.layers))
        for gap, host in product(records(rows(gaps, found=True)), HOSTS):
            halves = split_by_cluster(tasks[gap["task"]], self.spec.held_out, self.setup.seed)
            direction = DESTROYS if host == gap["better"] else BRINGS
            chosen, protocols = tuple[int, ...](), (gap["protocol"],)
            for _ in range(self.spec.greedy):
                left = [i for i in every if i not in chosen]
                changes = [self.spec.change_of_places((*chosen, i)) for i in left]
                task = halves[SELECTION]
                tried = list(self._split_pieces(host, task, protocols, changes, SELECTION))
                answers = self._make_records(tried, parts, progress)
                yield from tried
                tables = [rows(answers, intervention=change.id) for change in changes]
                chosen = (*chosen, left[best_change(tables, direction)])
            steps = [self.spec.change_of_places(chosen[: i + 1]) for i in range(len(chosen))]
            measured = list(self._split_pieces(host, halves[HELD_OUT], protocols, steps, HELD_OUT))
            self._make_records(measured, parts, progress)
            yield from measured

    def _pieces(self, gaps: pd.DataFrame) -> Iterator[TransplantPiece]:
        """Pieces worth exchanging: only where the two models differ is there a gap to move."""
        found = with_gap(gaps)
        for task in self.setup.tasks:
            protocols = tuple(name for name in self.setup.protocols if (task.name, name) in found)
            if protocols:
                yield from self._task_pieces(task, protocols)

    def _task_pieces(self, task: Task, protocols: tuple[str, ...]) -> Iterator[TransplantPiece]:
        """All changes of both models, asked of a task."""
        changes = self.spec.changes()
        weights = [change for change in changes if change.exchange == WEIGHTS]
        streams = tuple(change for change in changes if change.exchange == ACTIVATIONS)
        for host in HOSTS:
            yield from self._split_pieces(host, task, protocols, weights)
            if streams:
                yield TransplantPiece(host, task, protocols, streams)

    def _split_pieces(
        self, host: str, task: Task, protocols: tuple[str, ...], changes: Sequence[Change],
        split: str | None = None,
    ) -> Iterator[TransplantPiece]:  # fmt: skip
        """Changes of weights that are made in one sweep, of some items at once."""
        writes, budget = "generate" in protocols, self.setup.memory_budget
        for some in self._hosts[host][1].sweep_groups(changes, writes, budget):
            for start in range(0, len(task.items), ITEMS_AT_ONCE):
                part = replace(task, items=task.items[start : start + ITEMS_AT_ONCE])
                yield TransplantPiece(host, part, protocols, some, split)

    def _make_records(
        self, pieces: Sequence[TransplantPiece], parts: CheckpointStore, progress: Meter
    ) -> pd.DataFrame:
        """The records of pieces, which are made if they are missing."""
        make_pieces(
            self.setup.executor, parts, progress, pieces,
            lambda piece: f"transplanting: {piece.task.name}", self._cost, self._measure,
        )  # fmt: skip
        return table_rows(parts, "transplant", [f"records {piece.name}" for piece in pieces])

    def _measure(self, piece: TransplantPiece) -> Recorded:
        """The records of a piece, and what they cost."""
        task, (setup, exchange) = piece.task, self._hosts[piece.host]
        if piece.changes:
            in_place: AbstractContextManager[object] = nullcontext()
            if piece.exchange == WEIGHTS:  # blocks are run by the engine as the host's are
                check_faithful(exchange.donor, self.method)
                if is_alone(piece.changes[0]):  # weights that no branch of a sweep can have
                    in_place = exchange.donated_weights(piece.changes[0]).in_place()
            with in_place:
                swept = self._answers(piece, setup)
            changes = list(map(exchange.intervention, piece.changes))
            described = {
                made.id: {name: getattr(change, name) for name in DESCRIBED}
                | {"intervention": change.id, "kind": "transplant", "heads": change.heads or None}
                for made, change in zip(changes, piece.changes, strict=True)
            }
            requests = item_requests(self.setup, task, task.items, piece.protocols)
            made = record_rows(task, task.items, requests, changes, swept)
            rows, stats = [row | described[row["intervention"]] for row in made], [swept.stats]
        else:
            rows, stats = records_as_is(self.setup, task, piece.protocols, self.method, setup)
            rows += guessed_rows(self.setup, task, task.items, piece.protocols)
        work = pd.DataFrame([work_entry("transplant", task.name, each) for each in stats])
        for row in rows:
            row |= {"host": piece.host, "split": piece.split}
            row["step"] = len(row["layers"]) if piece.split else None
        names = SCHEMAS["transplant"].names
        kept = [{name: row.get(name) for name in names} for row in rows]
        return frame("transplant", kept), joined_work([work])[0]

    def _answers(self, piece: TransplantPiece, by: Sweeper) -> Sweep:
        """The answers of a model with layers of the other, or with what the other has there."""
        changes = list(map(self._hosts[piece.host][1].intervention, piece.changes))
        made = item_requests(self.setup, piece.task, piece.task.items, piece.protocols)
        requests = [request.request for request in made]
        if piece.exchange == ACTIVATIONS:
            return sweep_with_donor(by, changes, requests, self.method)
        return by.sweep(changes, requests, self.method)

    def _cost(self, piece: TransplantPiece) -> Cost:
        """Expected cost of a piece, with weights of both models and those between them."""
        setup, exchange = self._hosts[piece.host]
        make = partial(answers_as_is, self.setup, piece.task, piece.protocols, self.method)
        if piece.changes:
            make = partial(self._answers, piece)
        made = [
            exchange.donated_weights(change).copied_bytes
            for change in piece.changes
            if change.exchange == WEIGHTS
        ]
        copied = sum(made) if "generate" in piece.protocols else max(made, default=0)
        held = weight_bytes(exchange.host) + weight_bytes(exchange.donor) + copied
        return replace(cost_of_sweeps(setup, piece.task, make), weight_bytes=held)
