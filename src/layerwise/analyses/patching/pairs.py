"""Analyses between a clean and a corrupted prompt: which pairs they use, piece by piece.

Pairs are those that can be compared and that the model solves. What is done with them is for each
analysis.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from operator import add
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import pandas as pd

from layerwise.analyses.shared.left_out import exclusion_entry
from layerwise.errors import UserError
from layerwise.models.instance.kinds import Model
from layerwise.presentation.wording import join_words
from layerwise.runs.checkpoints import CheckpointStore, concat_parts, table_rows
from layerwise.runs.dry_sweeps import tell_of_more_memory
from layerwise.runs.pieces import Recorded, joined_work, make_pieces
from layerwise.runs.progress import Meter
from layerwise.runs.records import with_clusters, work_entry
from layerwise.runs.setup import Setup
from layerwise.stats.items.clusters import Clusters, paired_p_values
from layerwise.storage.parquet import frame
from layerwise.sweep import LogLikelihood, Scored, SweepStats, intact
from layerwise.sweep.plans.cost import Cost
from layerwise.sweep.requests import Tokens
from layerwise.tasks import PatchingPrompts, Task
from layerwise.tasks.pairs import check_room

from .tables import order_runs

# Pairs that the intact model answers in one sweep: they share their few-shot examples, so that
# fewer at once take more work (of 268 pairs of facts 5 % of what patching 16 of them takes).
BATCH = 128
# Pairs that are patched and saved together. Each takes its activations from a run of its own, so
# that pairs share nothing but the way through the layers: fewer at once take no more token-passes.
PAIRS_AT_ONCE = 4
_Value = TypeVar("_Value")
# The intact model's log-probabilities of the clean and the corrupted answer's first tokens after
# the clean prompt, then of both after the corrupted one, in nats.
_ANSWERS = ["clean", "corrupted", "clean_after_corrupted", "corrupted_after_corrupted"]


@dataclass(frozen=True)
class SolvedPair:
    """A pair that the intact model solves, and what it says of it."""

    prompts: PatchingPrompts
    clean_diff: float  # logit of the clean answer's first token less the corrupted one's, in nats
    corrupted_diff: float  # the same after the corrupted prompt
    clean_logprob: float  # of the clean answer's first token, after the clean prompt
    corrupted_logprob: float
    pairs_solved: int  # of the task's pairs that can be compared
    pairs_reversed: int  # the wrong way round
    p: float  # of "no more are solved than reversed", by what pairs ask for

    def row(self, direction: str) -> dict[str, object]:
        """The columns that every table about pairs has."""
        return {
            "item": self.prompts.item,
            "protocol": "continuation",
            "clean_diff": self.clean_diff,
            "corrupted_diff": self.corrupted_diff,
            "pairs_solved": self.pairs_solved,
            "pairs_reversed": self.pairs_reversed,
            "p": self.p,
            "direction": direction,
        }

    def runs(self, direction: str) -> tuple[Tokens, Tokens]:
        """The prompt whose run is patched, and the one that activations are taken from."""
        return order_runs(self.prompts.clean, self.prompts.corrupted, direction)

    def diffs(self, direction: str) -> tuple[float, float]:
        """The logit differences of these two."""
        return order_runs(self.clean_diff, self.corrupted_diff, direction)


@dataclass(frozen=True)
class PairPiece(Generic[_Value]):
    """Pairs of a task that are made together: answered by the intact model, or patched."""

    name: str  # unique within a run
    task: Task
    pairs: tuple[_Value, ...]


Measured = tuple[list[dict[str, Any]], SweepStats]
"""Rows of a piece, but for its task, and what they cost."""


@dataclass(frozen=True)
class PairJob:
    """A planned analysis between a clean and a corrupted prompt, a few pairs at a time."""

    table: ClassVar[str]
    analysis: ClassVar[str]  # in words
    result: ClassVar[type[Any]]
    whole_tasks: ClassVar[bool] = False  # whether a piece has all pairs of a task

    setup: Setup
    pairs: int  # of a task, at most
    _: KW_ONLY
    align: bool = False  # whether pairs of unequal length are taken, too
    strict: bool = True  # whether a task without any pair is refused

    def __post_init__(self) -> None:
        if self.pairs < 1:
            raise UserError(f"At least one pair is needed for patching, not {self.pairs}.")
        for task in self.setup.tasks:  # bad input is refused before any work is done
            usable = self.usable(task)
            if self.strict and not usable:
                raise UserError(self._no_pairs_reason(task))
            for prompts in usable:
                check_room(task, prompts, self.setup.model.cfg.n_ctx)

    def cost(self, task: Task, some: Sequence[PatchingPrompts]) -> Cost:
        """Expected cost of some pairs of a task."""
        raise NotImplementedError

    def measure(self, task: Task, pairs: Sequence[SolvedPair]) -> Measured:
        """The rows of some pairs of a task, and what they cost."""
        raise NotImplementedError

    def run(self, parts: CheckpointStore, settings: dict[str, Any], progress: Meter) -> Any:
        """Choose the pairs of all tasks, make the pieces that are missing, and join them."""
        setup, tasks = self.setup, [task for task in self.setup.tasks if self.usable(task)]
        batches = [
            PairPiece(f"pairs of {self.table} {task.name} {some[0].item}", task, some)
            for task in tasks for some in split_evenly(self.usable(task), BATCH)
        ]  # fmt: skip
        make_pieces(
            setup.executor, parts, progress, batches,
            lambda batch: f"asking the model: {batch.task.name}",
            lambda batch: setup.cost(batch.task, [intact()], answer_requests_of_pairs(batch.pairs)),
            self._answer_pairs,
        )  # fmt: skip
        pieces = []
        for task in tasks:
            names = [f"records {batch.name}" for batch in batches if batch.task is task]
            chosen = self.select_solved(task, concat_parts(parts, names))
            pieces += [
                PairPiece(f"{self.table} {task.name} {some[0].prompts.item}", task, some)
                for some in split_evenly(chosen, self._pairs_per_piece)
            ]
        tell_of_more_memory(
            setup, [self._cost(piece) for piece in pieces], progress,
            lambda roomy, at: replace(self, setup=roomy)._cost(pieces[at]),
        )  # fmt: skip
        make_pieces(
            setup.executor, parts, progress, pieces,
            lambda piece: f"{self.analysis}: {piece.task.name}", self._cost, self._measure_piece,
        )  # fmt: skip
        rows = table_rows(parts, self.table, [f"records {piece.name}" for piece in pieces])
        rows = with_clusters(rows, setup.tasks) if pieces else frame(self.table, [])
        work = joined_work([parts.read_part(f"work {one.name}") for one in (*batches, *pieces)])
        work += [entry for task in setup.tasks for entry in self._exclusion_entries(task)]
        return self.result(rows, setup.facts(settings, work))

    def expected_cost(self, task: Task, *protocols: str) -> Cost:
        """Expected cost of a task, if the model solves the first pairs."""
        # All pairs are of ``continuation``, whichever protocols are named.
        usable = self.usable(task)
        asked = (
            self.setup.cost(task, [intact()], answer_requests_of_pairs(some))
            for some in split_evenly(usable, BATCH)
        )
        pieces = split_evenly(usable[: self.pairs], self._pairs_per_piece)
        return sum((self.cost(task, prompts) for prompts in pieces), start=sum(asked, Cost()))

    @property
    def _pairs_per_piece(self) -> int:
        return self.pairs if self.whole_tasks else PAIRS_AT_ONCE

    def _cost(self, piece: PairPiece[SolvedPair]) -> Cost:
        return self.cost(piece.task, [pair.prompts for pair in piece.pairs])

    def _measure_piece(self, piece: PairPiece[SolvedPair]) -> Recorded:
        """The rows of a piece under their task, and its entry of the work."""
        task, (rows, stats) = piece.task, self.measure(piece.task, piece.pairs)
        of_task = {"task": task.name, "capability": task.capability}
        work = {**work_entry(self.analysis, task.name, stats), "pairs": len(piece.pairs)}
        return frame(self.table, [of_task | row for row in rows]), work

    def usable(self, task: Task) -> list[PatchingPrompts]:
        """The pairs of a task that can be compared."""
        return [prompts for prompts, problem in self._pairs(task) if problem is None]

    def _pairs(self, task: Task) -> list[tuple[PatchingPrompts, str | None]]:
        """The pairs of a task, each with why it cannot be patched, if so."""
        pairs = [self.setup.pair(task, item) for item in task.items]
        return [
            (prompts, prompts.problem_aligned if self.align else prompts.problem)
            for prompts in pairs
            if prompts is not None
        ]

    def _answer_pairs(self, batch: PairPiece[PatchingPrompts]) -> Recorded:
        """The intact model's answers to some pairs, a row each, with their entry of the work."""
        swept = self.setup.sweep([intact()], answer_requests_of_pairs(batch.pairs))
        values = [scored_logprob(outcome) for outcome in swept.outcomes[0]]
        work = work_entry(self.analysis, batch.task.name, swept.stats)
        return pd.DataFrame(split_evenly(values, 4), columns=_ANSWERS), {**work, "pairs": 0}

    def select_solved(self, task: Task, answers: pd.DataFrame) -> list[SolvedPair]:
        """The first pairs that the intact model solves: elsewhere there is nothing to carry."""
        usable, four = self.usable(task), answers.to_numpy(dtype=float).tolist()
        net = [int(a > b and c < d) - int(a < b and c > d) for a, b, c, d in four]
        clusters = {item.id: item.cluster for item in task.items}
        p = more_solved_p_value(net, [clusters[prompts.item] for prompts in usable])
        n_solved, n_turned = net.count(1), net.count(-1)
        solved = [(pair, *v) for pair, v, sign in zip(usable, four, net, strict=True) if sign == 1]
        return [
            SolvedPair(prompts, a - b, c - d, a, c, n_solved, n_turned, p)
            for prompts, a, b, c, d in solved[: self.pairs]
        ]

    def _exclusion_entries(self, task: Task) -> Iterator[dict[str, Any]]:
        """An entry of the work that names a task's items that are no pairs to be compared."""
        pairs = {prompts.item: (prompts, problem) for prompts, problem in self._pairs(task)}
        unused = {}
        for item in (item.id for item in task.items):
            prompts, problem = pairs.get(item, (None, ""))
            if prompts is None:
                unused[item] = "there is no corrupted prompt"
            elif problem is None:
                continue
            elif not self.align and len(prompts.clean) != len(prompts.corrupted):
                unused[item] = "the two prompts differ in length"
            elif prompts.clean_answer == prompts.corrupted_answer:
                unused[item] = "both answers begin with the same token"
            else:
                unused[item] = "one prompt has all tokens of the other"
        if unused and pairs:
            counts = Counter(unused.values())
            numbers = [f" ({n})" if len(counts) > 1 else "" for n in counts.values()]
            why = join_words(map(add, counts, numbers))
            named = {"analysis": self.analysis, "task": task.name, "protocol": "continuation"}
            yield {**named, **exclusion_entry(list(unused), why)}

    def _no_pairs_reason(self, task: Task) -> str:
        for _, problem in self._pairs(task):
            return f"No pair of task {task.name!r} can be patched: {problem}"
        return (
            f"Task {task.name!r} has no pairs for activation patching; "
            "choose a task whose items have a corruption, e.g. kv-words or facts."
        )


def more_solved_p_value(net: Sequence[int], clusters: Sequence[str | None]) -> float:
    """One-sided exact test that more pairs are solved than reversed."""
    # Which prompt is called clean is arbitrary: without an effect a cluster's sum is turned with
    # probability 1/2 (randomisation by cluster: Gail et al. 1996, Statistics in Medicine 15).
    if sum(net) <= 0:
        return 1.0
    labels = [place if cluster is None else cluster for place, cluster in enumerate(clusters)]
    both_sides = paired_p_values(np.array(net, dtype=int)[:, None], Clusters.from_labels(labels))
    return float(both_sides[0]) / 2


def split_evenly(values: Sequence[_Value], size: int) -> list[tuple[_Value, ...]]:
    """Values in their order, so many together; fewer in the last."""
    return [tuple(values[start : start + size]) for start in range(0, len(values), size)]


def answer_requests(
    prompts: PatchingPrompts, context: tuple[int, ...], source: tuple[int, ...] | None = None
) -> list[LogLikelihood]:
    """Both answers' first tokens after a prompt; a logit difference needs no more."""
    answers = (prompts.clean_answer, prompts.corrupted_answer)
    return [LogLikelihood(context, (answer,), source) for answer in answers]


def answer_requests_of_pairs(usable: Sequence[PatchingPrompts]) -> list[LogLikelihood]:
    """Both answers after both prompts of each pair."""
    return [
        r for p in usable for r in (*answer_requests(p, p.clean), *answer_requests(p, p.corrupted))
    ]


def scored_logprob(outcome: object) -> float:
    """The log-probability that was asked for, in nats."""
    assert isinstance(outcome, Scored)
    return outcome.logprob


def cost_of_passes(model: Model, passes: int) -> Cost:
    """The cost of so many passes of a token through all blocks, each by plain forwards."""
    # Some 12 d^2 weights a block (Kaplan et al. 2020, section 2.1), of either kind.
    flop = 24.0 * passes * model.cfg.d_model**2
    return Cost(
        prompt_token_passes=passes, brute_force_token_passes=float(passes), prompt_flop=flop
    )
