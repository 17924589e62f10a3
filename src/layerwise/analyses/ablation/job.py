"""A planned ablation: cut into pieces, measured piece by piece, joined to one result."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import chain, product
from pathlib import Path
from typing import Any

import pandas as pd

from layerwise.models.instance.kinds import is_seq2seq
from layerwise.presentation.wording import intervention_phrase, join_words, writes
from layerwise.runs.checkpoints import CheckpointStore, table_rows
from layerwise.runs.controls import (
    BlindItem,
    as_controls,
    asked_blind,
    blind_answers,
    blind_rows,
    guessed_rows,
    without_layers,
)
from layerwise.runs.dry_sweeps import Sweeper, cost_of_sweeps, tell_of_more_memory
from layerwise.runs.pieces import Recorded, joined_work, make_pieces, missing_pieces
from layerwise.runs.progress import Meter, PartMeter
from layerwise.runs.records import record_rows, text_lines, work_entry, write_requests
from layerwise.runs.setup import Setup
from layerwise.runs.task_loading import refuse_no_chance, warn_of_few_items
from layerwise.stats.effects import cells
from layerwise.stats.signals.signal import signals
from layerwise.storage.parquet import frame, refuse_too_many_rows
from layerwise.sweep import Intervention, Sweep, intact
from layerwise.sweep.plans.cost import Cost
from layerwise.sweep.requests import Tokens
from layerwise.tasks import Task, TaskRequest
from layerwise.tasks._requests import prompt
from layerwise.tasks.items import Item
from layerwise.tasks.task import with_examples

from .result import ANSWER, AblationResult
from .spec import (
    RESAMPLE,
    AblationSpec,
    DrawnChange,
    resampling_partners,
    sweep_by_draw,
    with_draws,
)
from .tables.questions import question_table

# Items that are finished and saved together: what a killed run can lose at most.
ITEMS_AT_ONCE = 32
# Of a task with more pieces than this, about so many are counted for plan and progress, and others
# are taken to cost what the one before them does: counting takes some tenths of a second each. Of
# long prompts fewer are counted, of about so many characters together.
MOST_COUNTED, MOST_CHARACTERS = 16, 2**18


@dataclass(frozen=True)
class AblationPiece:
    """Work that is finished and saved together."""

    task: Task
    items: tuple[Item, ...]
    protocols: tuple[str, ...]
    stage: str  # ``intact``, or ``swept`` for the intact model and every change
    analysis: str  # what asks for it
    # Which draw of its few-shot examples the task has; None if there is but one.
    examples: int | None = None
    # The items whose cost is taken for that of these; its own in a task of few pieces.
    counted: tuple[Item, ...] = field(default=(), compare=False, repr=False)

    @property
    def name(self) -> str:
        """Unique within a run."""
        whose = "" if self.analysis == "ablation" else f"{self.analysis}, "
        examples = f", examples {self.examples}" if self.examples else ""
        return f"{whose}{self.stage} {self.task.name} {self.items[0].id}{examples}"

    def activity(self, changes: Sequence[AblationSpec]) -> str:
        """``"skipping layers: facts, chooses and writes"``: what is done while it is made."""
        what = "asking the model"
        for change in changes[:1] if self.stage != "intact" else ():
            what = intervention_phrase(
                change.kind, change.site, "heads" if change.heads else "layers"
            )
        return f"{what}: {self.task.name}, {join_words(map(writes, self.protocols))}"


@dataclass(frozen=True)
class Ablation:
    """A planned ablation; makes its pieces one by one and joins them."""

    setup: Setup
    # What is changed, one set after the other; none to measure the model alone.
    changes: tuple[AblationSpec, ...]
    method: str = "engine"  # ``engine`` or ``reference``
    # Measure the intact model first, and change layers only under those protocols under which it is
    # better than blind: elsewhere no claim would be made.
    only_with_signal: bool = False
    analysis: str = "ablation"  # what asks for it, as its work is named
    fewshot_seeds: int = 1  # with how many draws of their few-shot examples the items are asked
    # Costs of pieces that were counted so far.
    counted: dict[Any, Cost] = field(default_factory=dict, init=False, repr=False, compare=False)
    # By stage and task, what pieces of the last of them change: means and noise are taken once.
    made: dict[Any, list[Intervention]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        drawn = sum(
            len(change.same_cost_changes(self.setup.model)) * change.draws
            for change in self.changes
        )
        n_items = sum(len(task.items) for task in self.setup.tasks) * len(self.setup.protocols)
        what = f"{self.n_draws:,} draws" if self.n_draws > 1 else "So many items and changes"
        refuse_too_many_rows("records", drawn * n_items * self.fewshot_seeds, what)
        for task in self._tasks():  # bad input is refused before any work is done
            self.setup.refuse_items(task)
            self._donors(task, self._source_draws[-1])
            refuse_no_chance(task, self.setup.protocols)

    def _tasks(self) -> list[Task]:
        """All tasks with each draw of their examples."""
        draws = range(self.fewshot_seeds)
        return [with_examples(task, draw) for task in self.setup.tasks for draw in draws]

    @property
    def n_draws(self) -> int:
        """Draws that each item has of noise, or of another item to be resampled from."""
        return max((change.draws for change in self.changes), default=1)

    @property
    def _source_draws(self) -> range:
        """The draws in which requests differ, by the other item that they are resampled from."""
        return range(self.n_draws if any(c.kind == RESAMPLE for c in self.changes) else 1)

    def settings(self) -> dict[str, Any]:
        """Settings that make it this ablation and no other."""
        first, *others = [change.settings() for change in self.changes] or [{}]
        settings = first | ({"also_changed": others} if others else {})
        settings |= {"method": self.method, "only_with_signal": self.only_with_signal}
        if self.fewshot_seeds > 1:
            hashes = {task.name: [] for task in self.setup.tasks}
            for task in self._tasks():
                hashes[task.name].append(task.hash)
            settings |= {"fewshot_seeds": self.fewshot_seeds, "examples": hashes}
        return settings

    def run(
        self, parts: CheckpointStore, settings: dict[str, Any], progress: Meter
    ) -> AblationResult:
        """Make the pieces that are missing, and join all of them."""
        setup = self.setup
        warn_of_few_items(setup.pieces())
        meter = PartMeter(progress, self.amount())
        progress.expect(meter.counted)
        intact = self._pieces("intact") if self.only_with_signal else []
        self._make(intact, parts, meter)
        pieces = self._able_pieces(parts) if self.only_with_signal else self._pieces("swept")
        meter.set_expected(
            sum((self.cost(p).amount for p in missing_pieces(parts, pieces)), start=0.0)
        )
        self._make(pieces, parts, meter)
        pieces += intact
        records = _records(parts, pieces)
        again = records.duplicated(ANSWER)  # the intact model, asked before it was swept
        work = [parts.read_part(f"work {piece.name}") for piece in pieces]
        facts = setup.facts(settings, joined_work(work))
        how = setup.tokenizer, setup.chat, is_seq2seq(setup.model), setup.pieces()
        return AblationResult(records.loc[~again], facts, partial(_questions, *how))

    def _make(
        self, pieces: Sequence[AblationPiece], parts: CheckpointStore, progress: Meter
    ) -> None:
        """Make the pieces that are missing."""
        missing = missing_pieces(parts, pieces)
        if missing and missing[0].stage != "intact":
            tell_of_more_memory(
                self.setup,
                [self.cost(piece) for piece in missing],
                progress,
                lambda roomy, at: replace(self, setup=roomy).cost(missing[at]),
            )
        make_pieces(
            self.setup.executor, parts, progress, missing,
            lambda piece: piece.activity(self.changes), self.cost, self.measure,
        )  # fmt: skip

    def amount(self) -> float:
        """The work of all pieces as far as it is known: at most, with signal in all tasks."""
        tasks, protocols = self.setup.tasks, self.setup.protocols
        return sum((self.expected_cost(task, *protocols).amount for task in tasks), start=0.0)

    def _pieces(self, stage: str) -> list[AblationPiece]:
        protocols = self.setup.protocols
        return [
            piece
            for task in self.setup.tasks
            for piece in self._split_pieces(task, protocols, stage)
        ]

    def _able_pieces(self, parts: CheckpointStore) -> list[AblationPiece]:
        """The pieces of protocols under which the intact model, once measured, has signal."""
        pieces: list[AblationPiece] = []
        for task in self.setup.tasks:
            records = _records(parts, self._split_pieces(task, self.setup.protocols, "intact"))
            # each protocol by itself, for the correction is over all tasks of a finished run
            able = {
                cell.protocol
                for cell in cells(records, over_examples=True)
                if all(signals([cell], lambda _, name, task=task: task.chance[name]).values())
            }
            protocols = tuple(p for p in self.setup.protocols if p in able)
            pieces += self._split_pieces(task, protocols, "swept")
        return pieces

    def _split_pieces(
        self, task: Task, protocols: tuple[str, ...], stage: str
    ) -> list[AblationPiece]:
        starts = range(0, len(task.items), ITEMS_AT_ONCE) if protocols else ()
        parts = [task.items[i : i + ITEMS_AT_ONCE] for i in starts]
        size = sum(len(prompt(task, item)) for part in parts[:1] for item in part)
        most = max(1, min(MOST_COUNTED, MOST_CHARACTERS // max(1, size)))
        several, apart = self.fewshot_seeds > 1, -(-len(parts) // most)  # one in so many is counted
        return [
            AblationPiece(
                variant, part, protocols, stage, self.analysis, number if several else None,
                parts[at - at % apart],
            )
            for number in range(self.fewshot_seeds)
            for variant in [with_examples(task, number)]
            for at, part in enumerate(parts)
        ]  # fmt: skip

    def interventions(self, piece: AblationPiece) -> list[Intervention]:
        """Changes of a piece, the intact model first."""

        @cache
        def contexts() -> list[Tokens]:
            requests = self._requests(piece.task, piece.task.items, self.setup.protocols)
            return sorted({request.request.context for request in requests})

        return self._stage_interventions(
            piece, (c.interventions(self.setup, contexts) for c in self.changes)
        )

    def _stage_interventions(
        self, piece: AblationPiece, changes: Iterable[list[Intervention]]
    ) -> list[Intervention]:
        if piece.stage == "intact":
            return [intact()]
        return [intact(), without_layers(self.setup.model), *chain.from_iterable(changes)]

    def _blind(self, piece: AblationPiece) -> list[BlindItem]:
        """Requests under other items' questions, once for each item."""
        if not self._has_controls(piece):
            return []
        return asked_blind(self.setup, piece.task, piece.items, piece.protocols)

    def _has_controls(self, piece: AblationPiece) -> bool:
        """True if controls are measured with a piece: with the first that asks the intact model."""
        return piece.stage == "intact" or not self.only_with_signal

    def _requests(
        self, task: Task, items: Sequence[Item], protocols: Sequence[str], draw: int = 0
    ) -> Iterator[TaskRequest]:
        """Requests to the model; for resampling with the other item's prompt, by the draw."""
        others = self._donors(task, draw)
        for item, protocol in product(items, protocols):
            requests = self.setup.requests(task, item, protocol)
            if others:
                source = self.setup.requests(task, others[item.id], protocol)[0].request.context
                requests = [replace(r, request=replace(r.request, source=source)) for r in requests]
            yield from requests

    def _donors(self, task: Task, draw: int) -> dict[str, Item]:
        """By item id the other item that it is resampled from; empty if nothing is resampled."""
        if not any(change.kind == RESAMPLE for change in self.changes):
            return {}
        return resampling_partners(self.setup.seed, task.items, task.name, draw)

    def measure(self, piece: AblationPiece) -> Recorded:
        """The records of a piece, and what they cost."""
        key = piece.stage, piece.task.hash
        if key not in self.made:
            self.made.clear()
            self.made[key] = self.interventions(piece)
        drawn, blind = with_draws(self.made[key], self.n_draws), self._blind(piece)
        swept, *others = self._answers(piece, drawn, blind, self.setup)
        changes, draws = zip(*drawn, strict=True)
        requests = list(self._requests(piece.task, piece.items, piece.protocols))
        records = record_rows(piece.task, piece.items, requests, changes, swept, draws)
        rows = list(as_controls(records))
        for sweep in others:
            rows += blind_rows(piece.task, blind, sweep)
        stats = [sweep.stats for sweep in (swept, *others)]
        work = [work_entry(self.analysis, piece.task.name, each) for each in stats]
        if self._has_controls(piece):
            rows += guessed_rows(self.setup, piece.task, piece.items, piece.protocols)
        rows = [row | {"examples": piece.examples} for row in rows]
        return frame("records", rows), joined_work([pd.DataFrame(work)])[0]

    def _answers(
        self,
        piece: AblationPiece,
        drawn: Sequence[DrawnChange],
        blind: Sequence[BlindItem],
        by: Sweeper,
    ) -> list[Sweep]:
        """The answers of a piece, and those to other items' questions."""

        def sweep(changes: Sequence[Intervention], requests: Sequence[TaskRequest]) -> Sweep:
            return by.sweep(changes, [each.request for each in requests], self.method)

        requests = [
            list(self._requests(piece.task, piece.items, piece.protocols, draw))
            for draw in self._source_draws
        ]
        swept = sweep_by_draw(sweep, drawn, requests.__getitem__, self.setup.seed)
        return [swept, *blind_answers(by, blind, self.method)]

    def cost(self, piece: AblationPiece) -> Cost:
        """Expected cost of a piece, counted once."""
        n_items = len(piece.items)
        piece = replace(piece, items=piece.counted or piece.items)
        key = piece.name, piece.protocols
        if key not in self.counted:
            alike = self._stage_interventions(
                piece, (c.same_cost_changes(self.setup.model) for c in self.changes)
            )
            drawn = with_draws(alike, self.n_draws)
            make = partial(self._answers, piece, drawn, self._blind(piece))
            self.counted[key] = cost_of_sweeps(self.setup, piece.task, make)
        return self.counted[key].scale(n_items / len(piece.items))

    def expected_cost(self, task: Task, *protocols: str) -> Cost:
        """Expected cost of a task under some protocols, at most: with signal in all."""
        stages = ("intact", "swept") if self.only_with_signal else ("swept",)
        pieces = [piece for stage in stages for piece in self._split_pieces(task, protocols, stage)]
        return sum((self.cost(piece) for piece in pieces), start=Cost())

    def all_requests(self) -> Iterator[TaskRequest]:
        """Exactly what is put to the model, its controls included."""
        for task in self._tasks():
            for draw in self._source_draws:
                yield from self._requests(task, task.items, self.setup.protocols, draw)
        for piece in self._pieces("intact" if self.only_with_signal else "swept"):
            for item in self._blind(piece):
                yield from item.requests

    def write_requests(self, folder: Path) -> None:
        """Write all requests, one per line."""
        write_requests(self.all_requests(), folder)


def _records(parts: CheckpointStore, pieces: Sequence[AblationPiece]) -> pd.DataFrame:
    return table_rows(parts, "records", [f"records {piece.name}" for piece in pieces])


def _questions(*how: Any) -> pd.DataFrame:
    """Questions of a run in memory; made only if somebody reads them."""
    return question_table(text_lines(*how))
