"""Which pairs of prompts are patched: those that can be compared and that the model solves.

They are cut into pieces, which workers make. All analyses that run between a clean and a
corrupted prompt choose them here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import add
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pandas as pd

from layerwise.analyses.shared.left_out import left_out
from layerwise.errors import UserError
from layerwise.presentation.wording import joined
from layerwise.runs.checkpoints import CheckpointStore, rows_of, together
from layerwise.runs.pieces import Recorded, make_pieces
from layerwise.runs.progress import Meter
from layerwise.runs.records import work_entry
from layerwise.runs.setup import Setup
from layerwise.stats.items.clusters import Clusters, paired_p_values
from layerwise.sweep import LogLikelihood, Scored, SweepStats, intact
from layerwise.sweep.plans.cost import Cost
from layerwise.tasks import PatchingPrompts, Task
from layerwise.tasks.pairs import check_room

# Pairs that the intact model answers in one sweep: they share their few-shot examples, so that
# fewer at once take more work (of 268 pairs of facts 5 % of what patching 16 of them takes).
BATCH = 128
_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Pair:
    """A pair that the intact model solves, and its log-probabilities.

    Attributes:
        prompts: the two prompts and answers.
        clean_diff: log-probability of the clean answer's first token minus that of the
            corrupted answer's after the clean prompt, in nats; the difference of their logits.
        corrupted_diff: the same after the corrupted prompt.
        clean_logprob: log-probability of the clean answer's first token after the clean prompt.
        corrupted_logprob: the same after the corrupted prompt.
        pairs_solved: of the task's pairs that can be compared, how many the model solves.
        pairs_reversed: in how many it prefers the other prompt's answer, in both prompts.
        pairs_p: p-value of "no more are solved than reversed", by what pairs ask for.
    """

    prompts: PatchingPrompts
    clean_diff: float
    corrupted_diff: float
    clean_logprob: float
    corrupted_logprob: float
    pairs_solved: int
    pairs_reversed: int
    pairs_p: float

    def row(self) -> dict[str, object]:
        """The columns that every table about pairs has."""
        return {
            "item": self.prompts.item,
            "protocol": "continuation",
            "clean_diff": self.clean_diff,
            "corrupted_diff": self.corrupted_diff,
            "pairs_solved": self.pairs_solved,
            "pairs_reversed": self.pairs_reversed,
            "pairs_p": self.pairs_p,
        }


class PairAnswers(NamedTuple):
    """The intact model's answers to a pair: log-probabilities of answers' first tokens, in nats.

    Attributes:
        clean_after_clean: of the clean answer after the clean prompt.
        corrupted_after_clean: of the corrupted answer after the clean prompt.
        clean_after_corrupted: of the clean answer after the corrupted prompt.
        corrupted_after_corrupted: of the corrupted answer after the corrupted prompt.
    """

    clean_after_clean: float
    corrupted_after_clean: float
    clean_after_corrupted: float
    corrupted_after_corrupted: float


@dataclass(frozen=True)
class PairChoice:
    """The rule by which pairs are chosen.

    Attributes:
        setup: where tasks and model are from.
        pairs: at most so many of each task.
        align: take pairs of unequal length, too, and align them by what differs.
        strict: refuse a task without any pair.
    """

    setup: Setup
    pairs: int
    align: bool = False
    strict: bool = True

    def __post_init__(self) -> None:
        if self.pairs < 1:
            raise UserError(f"At least one pair is needed for patching, not {self.pairs}.")
        for task in self.setup.tasks:  # bad input is refused before any work is done
            usable = self.usable(task)
            if self.strict and not usable:
                raise UserError(self._why_none(task))
            for prompts in usable:
                check_room(task, prompts, self.setup.model.cfg.n_ctx)

    def usable(self, task: Task) -> list[PatchingPrompts]:
        """The pairs of a task that can be compared."""
        return [prompts for prompts in self._prompts(task) if self._problem(prompts) is None]

    def tasks(self) -> list[Task]:
        """The tasks that have any."""
        return [task for task in self.setup.tasks if self.usable(task)]

    def solved(self, task: Task) -> tuple[list[Pair], SweepStats]:
        """The pairs of a task that are used, and the work of choosing them."""
        answers, stats = list[PairAnswers](), SweepStats()
        for batch in self.batches(task):
            of_batch, cost = self.answers(batch)
            answers, stats = answers + of_batch, stats + cost
        return self.chosen(task, answers), stats

    def batches(self, task: Task) -> list[tuple[PatchingPrompts, ...]]:
        """The pairs of a task that can be compared, in batches of one sweep."""
        return cut(self.usable(task), BATCH)

    def answers(self, prompts: Sequence[PatchingPrompts]) -> tuple[list[PairAnswers], SweepStats]:
        """The intact model's answers to some pairs, and the work of the sweep."""
        swept = self.setup.sweep([intact()], both(prompts))
        values = [logprob_of(outcome) for outcome in swept.outcomes[0]]
        return [PairAnswers(*four) for four in cut(values, 4)], swept.stats

    def chosen(self, task: Task, answers: Sequence[tuple[float, ...]]) -> list[Pair]:
        """The first pairs of which the intact model prefers the right answer in both prompts.

        Elsewhere there is nothing to carry.
        """
        usable = self.usable(task)
        net = [int(a > b and c < d) - int(a < b and c > d) for a, b, c, d in answers]
        clusters = {item.id: item.cluster for item in task.items}
        pairs_p = more_solved_p_value(net, [clusters[prompts.item] for prompts in usable])
        n_solved, n_turned = net.count(1), net.count(-1)
        solved = [(p, *v) for p, v, sign in zip(usable, answers, net, strict=True) if sign == 1]
        return [
            Pair(prompts, a - b, c - d, a, c, n_solved, n_turned, pairs_p)
            for prompts, a, b, c, d in solved[: self.pairs]
        ]

    def with_left_out(self, work: Sequence[dict[str, Any]], analysis: str) -> list[dict[str, Any]]:
        """Entries of the work, and beside them which items are no pairs that can be compared."""
        return [*work, *(entry for t in self.setup.tasks for entry in self._entries(t, analysis))]

    def _entries(self, task: Task, analysis: str) -> Iterator[dict[str, Any]]:
        """What is said of a task that has pairs, if some of its items are left out."""
        every = {item.id: self.setup.pair(task, item) for item in task.items}
        reasons = {item: self._reason(prompts) for item, prompts in every.items()}
        unused = {item: why for item, why in reasons.items() if why is not None}
        if unused and any(every.values()):
            counts = Counter(unused.values())
            numbers = [f" ({n})" if len(counts) > 1 else "" for n in counts.values()]
            why = joined(map(add, counts, numbers))
            named = {"analysis": analysis, "task": task.name, "protocol": "continuation"}
            yield {**named, **left_out(list(unused), why)}

    def _reason(self, prompts: PatchingPrompts | None) -> str | None:
        """Why patching leaves an item out, in few words; None if it does not."""
        if prompts is None:
            return "there is no corrupted prompt"
        if self._problem(prompts) is None:
            return None
        if not self.align and len(prompts.clean) != len(prompts.corrupted):
            return "the two prompts differ in length"
        if prompts.clean_answer == prompts.corrupted_answer:
            return "both answers begin with the same token"
        return "one prompt has all tokens of the other"

    def _prompts(self, task: Task) -> list[PatchingPrompts]:
        pairs = (self.setup.pair(task, item) for item in task.items)
        return [prompts for prompts in pairs if prompts is not None]

    def _problem(self, prompts: PatchingPrompts) -> str | None:
        return prompts.problem_aligned if self.align else prompts.problem

    def _why_none(self, task: Task) -> str:
        problems = [self._problem(prompts) for prompts in self._prompts(task)]
        if problems:
            return f"No pair of task {task.name!r} can be patched: {problems[0]}"
        return (
            f"Task {task.name!r} has no pairs for activation patching; "
            "choose a task whose items have a corruption, e.g. kv-words or facts."
        )


def more_solved_p_value(net: Sequence[int], clusters: Sequence[str | None]) -> float:
    """One-sided exact test that more pairs are solved than reversed.

    Which prompt of a pair is called clean is arbitrary; if the prompts do not matter, all pairs
    that ask for the same thing might as well have been called the other way round. So the sum over
    each cluster keeps its sign or is turned with probability 1/2 (randomisation by cluster: Gail et
    al. 1996, Statistics in Medicine 15). Of pairs that stand by themselves it is the binomial test
    with 1/2 of those that are solved or reversed.
    """
    if sum(net) <= 0:
        return 1.0
    labels = [place if cluster is None else cluster for place, cluster in enumerate(clusters)]
    both_sides = paired_p_values(np.array(net, dtype=int)[:, None], Clusters.of(labels))
    return float(both_sides[0]) / 2


def cut(values: Sequence[_Value], size: int) -> list[tuple[_Value, ...]]:
    """Values in their order, so many together; fewer in the last."""
    return [tuple(values[start : start + size]) for start in range(0, len(values), size)]


def answer_requests(
    prompts: PatchingPrompts, context: tuple[int, ...], source: tuple[int, ...] | None = None
) -> list[LogLikelihood]:
    """Both answers' first tokens after a prompt; a logit difference needs no more."""
    answers = (prompts.clean_answer, prompts.corrupted_answer)
    return [LogLikelihood(context, (answer,), source) for answer in answers]


def both(usable: Sequence[PatchingPrompts]) -> list[LogLikelihood]:
    """Both answers after both prompts of each pair."""
    return [
        r for p in usable for r in (*answer_requests(p, p.clean), *answer_requests(p, p.corrupted))
    ]


def logprob_of(outcome: object) -> float:
    """The log-probability that was asked for, in nats."""
    assert isinstance(outcome, Scored)
    return outcome.logprob


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
