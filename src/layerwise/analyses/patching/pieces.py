"""The pairs of a task cut into pieces, which workers make side by side and a killed run keeps.

First the intact model answers all pairs, some at a time; those that are chosen are then patched,
a few at a time. Where pieces are made and kept is the business of ``runs``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain

import pandas as pd

from layerwise.runs.checkpoints import CheckpointStore, rows_of, together
from layerwise.runs.pieces import Recorded, make_pieces
from layerwise.runs.progress import Meter
from layerwise.runs.records import work_entry
from layerwise.sweep import intact
from layerwise.sweep.plans.cost import Cost
from layerwise.tasks import PatchingPrompts, Task

from .pairs import Pair, PairChoice, both, cut

# Pairs that are patched and saved together. Each takes its activations from a run of its own, so
# that pairs share nothing but the way through the layers: fewer at once take no more token-passes.
PAIRS_AT_ONCE = 4


@dataclass(frozen=True)
class PairBatch:
    """Pairs that the intact model answers in one sweep.

    Attributes:
        task: their task.
        prompts: the pairs.
        whose: the analysis that asks, as its pieces are named.
    """

    task: Task
    prompts: tuple[PatchingPrompts, ...]
    whose: str

    @property
    def name(self) -> str:
        """Unique within a run."""
        return f"pairs of {self.whose} {self.task.name} {self.prompts[0].item}"


@dataclass(frozen=True)
class ChosenPairs:
    """Pairs that are patched.

    Attributes:
        task: their task.
        pairs: the pairs.
        whose: the analysis that patches them, as its pieces are named.
    """

    task: Task
    pairs: tuple[Pair, ...]
    whose: str

    @property
    def name(self) -> str:
        """Unique within a run."""
        return f"{self.whose} {self.task.name} {self.pairs[0].prompts.item}"


@dataclass(frozen=True)
class PairPieces:
    """The pieces of an analysis of pairs.

    Attributes:
        choice: which pairs are used.
        whose: the analysis, as its pieces are named.
        analysis: the same in words.
    """

    choice: PairChoice
    whose: str
    analysis: str

    def chosen(
        self, parts: CheckpointStore, progress: Meter
    ) -> tuple[list[ChosenPairs], list[pd.DataFrame]]:
        """Choose the pairs of all tasks, by what the intact model says."""
        tasks = self.choice.tasks()
        batches = {task.name: self._batches(task) for task in tasks}
        make_pieces(
            self.choice.setup.executor, parts, progress,
            list(chain.from_iterable(batches.values())),
            lambda batch: f"asking the model: {batch.task.name}", self._cost_of_batch,
            self._answers,
        )  # fmt: skip
        every = chain.from_iterable(batches.values())
        work = [parts.read_part(f"work {batch.name}") for batch in every]
        pieces = []
        for task in tasks:
            answers = together(parts, [f"records {batch.name}" for batch in batches[task.name]])
            pairs = self.choice.chosen(task, list(answers.itertuples(index=False, name=None)))
            pieces += [
                ChosenPairs(task, pairs_of, self.whose) for pairs_of in cut(pairs, PAIRS_AT_ONCE)
            ]
        return pieces, work

    def make(
        self,
        parts: CheckpointStore,
        progress: Meter,
        pieces: Sequence[ChosenPairs],
        cost: Callable[[ChosenPairs], Cost],
        measure: Callable[[ChosenPairs], Recorded],
        table: str,
    ) -> tuple[pd.DataFrame, list[pd.DataFrame]]:
        """Make the pieces that are missing, and join all of them."""
        make_pieces(
            self.choice.setup.executor, parts, progress, pieces,
            lambda piece: f"{self.analysis}: {piece.task.name}", cost, measure,
        )  # fmt: skip
        rows = rows_of(parts, table, [f"records {piece.name}" for piece in pieces])
        return rows, [parts.read_part(f"work {piece.name}") for piece in pieces]

    def _batches(self, task: Task) -> list[PairBatch]:
        return [PairBatch(task, batch, self.whose) for batch in self.choice.batches(task)]

    def _cost_of_batch(self, batch: PairBatch) -> Cost:
        return self.choice.setup.cost(batch.task, [intact()], both(batch.prompts))

    def _answers(self, batch: PairBatch) -> Recorded:
        answers, stats = self.choice.answers(batch.prompts)
        work = work_entry(self.analysis, batch.task.name, stats)
        return pd.DataFrame(answers), {**work, "pairs": 0}
