"""Planned decisions: the intact model first, then rounds of items for layers that are open."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from layerwise.analyses.ablation.job import Ablation
from layerwise.presentation.wording import join_words, writes
from layerwise.runs.checkpoints import CheckpointStore, table_rows
from layerwise.runs.controls import item_requests
from layerwise.runs.dry_sweeps import Sweeper, cost_of_sweeps
from layerwise.runs.pieces import Recorded, joined_work, make_pieces, missing_pieces
from layerwise.runs.progress import Meter, PartMeter
from layerwise.runs.records import record_rows, work_entry
from layerwise.runs.setup import Setup
from layerwise.storage.parquet import conform, frame
from layerwise.sweep import Intervention, Sweep, skip
from layerwise.sweep.plans.cost import Cost
from layerwise.tasks import Task
from layerwise.tasks.items import Item

from .result import RECORDS, DecisionsResult
from .verdicts import Rules, Standing

ROUND_ITEMS = 24


@dataclass(frozen=True)
class RoundPiece:
    """Items of a round that are asked without each of some layers."""

    number: int  # of the round, from 1
    task: Task
    items: tuple[Item, ...]
    protocols: tuple[str, ...]
    layers: tuple[int, ...]

    @property
    def name(self) -> str:
        """Unique within a run."""
        ways = "+".join(self.protocols)
        return f"decisions, round {self.number} {self.task.name} {ways} {self.items[0].id}"

    def changes(self) -> list[Intervention]:
        """Layers that are skipped, one at a time."""
        return [skip(layer) for layer in self.layers]


@dataclass(frozen=True)
class Decisions:
    """Planned decisions; the records so far fix what the next round asks."""

    setup: Setup
    layers: tuple[int, ...]
    questions: tuple[str, ...]
    measure: str | None = None  # ``nats`` or ``accuracy``; by the protocol if None
    round_items: int = ROUND_ITEMS
    method: str = "engine"  # ``engine`` or ``reference``
    scoring: Ablation = field(init=False, repr=False)  # the intact model's answers, and controls

    def __post_init__(self) -> None:
        scoring = Ablation(self.setup, (), self.method, analysis="decisions")
        object.__setattr__(self, "scoring", scoring)

    def settings(self) -> dict[str, Any]:
        """Settings that make them these decisions and no others."""
        return {
            "questions": list(self.questions), "measure": self.measure,
            "round_items": self.round_items, "layers": list(self.layers), "method": self.method,
        }  # fmt: skip

    @property
    def rules(self) -> Rules:
        """Rules that verdicts are made by."""
        return Rules(
            self.layers, self.questions, self.measure, self.setup.interest, self.round_items,
            self.setup.seed,
        )  # fmt: skip

    def run(
        self, parts: CheckpointStore, settings: dict[str, Any], progress: Meter
    ) -> DecisionsResult:
        """Ask round after round, until all is decided or all items are asked."""
        # At most: layers leave as they are decided.
        bound = sum((self._rounds_cost(task, self.setup.protocols).amount
                     for task in self.setup.tasks), 0.0)  # fmt: skip
        meter = PartMeter(progress, bound)
        progress.expect(bound)
        scored = self.scoring.run(parts, settings, progress)
        records = [conform(RECORDS, scored.records)]
        work = [pd.DataFrame(list(scored.facts.work))]
        number = 0
        while True:
            standing = self.rules.stand(
                pd.concat(records, ignore_index=True), scored.facts.chance, number
            )
            pieces = self._pieces(standing)
            if not pieces:
                break
            number += 1
            costs = sum((self.cost(piece).amount for piece in missing_pieces(parts, pieces)), 0.0)
            meter.set_expected(costs / max(1, standing.n_next) * standing.n_left)
            make_pieces(
                self.setup.executor, parts, meter, pieces,
                lambda piece, so_far=standing: self._activity(piece, so_far), self.cost,
                self.measure_piece,
            )  # fmt: skip
            names = [piece.name for piece in pieces]
            records.append(table_rows(parts, RECORDS, [f"records {name}" for name in names]))
            work += [parts.read_part(f"work {name}") for name in names]
        meter.set_expected(0.0)
        facts = self.setup.facts(settings, joined_work(work))
        return DecisionsResult(pd.concat(records, ignore_index=True), facts)

    def _pieces(self, standing: Standing) -> list[RoundPiece]:
        tasks = {task.name: task for task in self.setup.tasks}
        pieces = []
        for asked in standing.to_ask:
            task = tasks[asked.task]
            by_id = {item.id: item for item in task.items}
            items = tuple(by_id[name] for name in asked.items)
            protocols = tuple(name for name in self.setup.protocols if name in asked.protocols)
            pieces.append(RoundPiece(standing.n_rounds + 1, task, items, protocols, asked.layers))
        return pieces

    def _activity(self, piece: RoundPiece, standing: Standing) -> str:
        """``"skipping layers, 23 of 120 undecided after 64 answers: facts, chooses"``."""
        so_far = f"{standing.n_open} of {standing.n_places} undecided"
        after = f" after {standing.n_asked} answers each" if standing.n_asked else ""
        ways = join_words(map(writes, piece.protocols))
        return f"skipping layers, {so_far}{after}: {piece.task.name}, {ways}"

    def measure_piece(self, piece: RoundPiece) -> Recorded:
        """The records of a piece, and what they cost."""
        requests = item_requests(self.setup, piece.task, piece.items, piece.protocols)
        swept = self._answers(piece, self.setup)
        rows = record_rows(piece.task, piece.items, requests, piece.changes(), swept)
        records = conform(RECORDS, frame("records", list(rows)))
        return records, work_entry("decisions", piece.task.name, swept.stats)

    def _answers(self, piece: RoundPiece, by: Sweeper) -> Sweep:
        requests = item_requests(self.setup, piece.task, piece.items, piece.protocols)
        return by.sweep(piece.changes(), [each.request for each in requests], self.method)

    def cost(self, piece: RoundPiece) -> Cost:
        """Expected cost of a piece."""
        return cost_of_sweeps(self.setup, piece.task, lambda by: self._answers(piece, by))

    def expected_cost(self, task: Task, *protocols: str) -> Cost:
        """Expected cost of a task under some protocols, at most: with nothing decided early."""
        return self._rounds_cost(task, protocols) + self.scoring.expected_cost(task, *protocols)

    def _rounds_cost(self, task: Task, protocols: tuple[str, ...]) -> Cost:
        """Cost of all rounds of a task, each taken to cost what the first does."""
        first = RoundPiece(1, task, task.items[: self.round_items], protocols, self.layers)
        return self.cost(first).scale(len(task.items) / len(first.items))
