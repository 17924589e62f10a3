"""Small sets of heads: chosen on half of the items, removed at once on the other half.

The set stands beside random sets with as many heads in each layer. ``docs/heads.md`` has the
scores and what the comparison can say.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Annotated, Any, Unpack

import numpy as np
import pandas as pd

from layerwise import stats
from layerwise.analyses.arguments import Protocols, Tasks, check_arguments
from layerwise.analyses.execute import execute_job
from layerwise.analyses.heads.api import THRESHOLD, fitting_heads
from layerwise.analyses.shared.left_out import HELD_OUT, SELECTION
from layerwise.errors import UserError, count_noun
from layerwise.ground.argument_types import SomeNames, known_name_validator
from layerwise.models.arguments import LoadedModel
from layerwise.models.instance.exclusive import exclusive
from layerwise.models.instance.kinds import is_seq2seq
from layerwise.runs.checkpoints import CheckpointStore, table_rows
from layerwise.runs.controls import (
    as_controls,
    asked_blind,
    blind_answers,
    blind_rows,
    guessed_rows,
    item_requests,
    without_layers,
)
from layerwise.runs.dry_sweeps import Sweeper, cost_of_prompts, cost_of_sweeps
from layerwise.runs.executors import WorkUnit, make_missing
from layerwise.runs.options import RunOptions
from layerwise.runs.pieces import joined_work
from layerwise.runs.progress import Meter
from layerwise.runs.records import planned_work, record_rows, work_entry
from layerwise.runs.setup import Setup, prepare
from layerwise.runs.task_loading import refuse_no_chance
from layerwise.stats.items.clusters import Clusters
from layerwise.storage.parquet import frame
from layerwise.storage.schemas import SCHEMAS
from layerwise.sweep import Intervention, Sweep, intact
from layerwise.sweep.plans.cost import Cost
from layerwise.sweep.requests import LogLikelihood, Tokens
from layerwise.tasks import Task
from layerwise.tasks.items import Item

from .ranking import (
    Head,
    Target,
    copy_scores,
    cost_estimates,
    random_head_sets,
    remove_heads,
    top_heads,
)
from .result import HeadSetsResult

COPYING, COST, INDUCTION = WAYS = ("copying", "cost", "induction")
"""Scores by which heads are ranked."""
SHARE, RANDOM_SETS = 0.05, 20
# Runs that an item takes to be ranked by: a backward pass counts as two.
_RUNS = {COPYING: 1.0, COST: 3.0}


def refuse_sets(share: float, random_sets: int) -> None:
    """Refuse a share that leaves no other heads to draw from, and a set without a baseline."""
    if not 0 < share <= 0.5:
        raise UserError(
            f"The share of heads to remove is {share}; expected more than 0 and at most 0.5, so "
            "that other heads are left to compare with."
        )
    if random_sets < 1:
        raise UserError(f"{random_sets} random sets were asked for; expected at least 1.")


@check_arguments(refuse_sets)
@exclusive
def head_sets(
    model: LoadedModel,
    tasks: Tasks = "all",
    protocols: Protocols = "continuation",
    *,
    by: Annotated[str, known_name_validator("way to rank heads", WAYS)] = "cost",
    share: float = 0.05,
    random_sets: int = 20,
    rank_on: SomeNames | None = None,
    **run: Unpack[RunOptions],
) -> HeadSetsResult:
    """Remove a small set of heads at once, and compare with random sets of the same size.

    Heads are ranked on half of the items of a task; the set is tested on the other half. Items
    that ask for the same thing stay together. Each random set has as many heads in each layer as
    the chosen one. Removed heads write nothing.

    Args:
        by: ``copying``: share of the answer's tokens that the head copies from the prompt (Wu et
            al. 2024, arXiv:2404.15574). ``cost``: what the head is worth to the answer's
            log-odds, estimated by a gradient (Michel et al. 2019, arXiv:1905.10650).
            ``induction``: all induction heads, found on repeated random tokens as in
            ``head_scores``; no item chooses these, so all are tested.
        share: share of all heads that is removed, at most; heads with a score of 0 never are.
        random_sets: number of random sets.
        rank_on: names or capabilities of those tasks that choose one set for all tasks; if None
            each task chooses a set of its own. Not for ``induction``.

    Returns:
        One row per set, item and protocol; ``losses()`` has what each set costs.

    Raises:
        UserError: for anything unknown, out of range or contradictory, an encoder-decoder, or a
            model with one head a layer.
    """
    setup = prepare(model, tasks, protocols, **run)
    chosen_on = None if rank_on is None else tuple(rank_on)
    job = HeadSets(setup, by, share, random_sets, chosen_on)
    return execute_job(job, HeadSetsResult, "head sets", run)


@dataclass(frozen=True)
class HeadSets:
    """Planned sets by one way to rank; first scores by task, then answers without the sets."""

    setup: Setup
    by: str
    share: float = SHARE
    random_sets: int = RANDOM_SETS
    rank_on: tuple[str, ...] | None = None  # tasks or capabilities that choose one set for all

    def __post_init__(self) -> None:
        refuse_sets(self.share, self.random_sets)
        setup = self.setup
        if is_seq2seq(setup.model):
            raise UserError(
                "Sets of heads are removed from one stack: expected a decoder-only model, and "
                f"{setup.loaded.name} is an encoder-decoder; name another model."
            )
        if setup.model.cfg.n_heads < 2:
            raise UserError(
                "The model has one head a layer: expected at least 2, so that random sets of "
                "other heads can be drawn; ablate its layers instead."
            )
        if self.by == INDUCTION and self.rank_on is not None:
            raise UserError(
                "Induction heads are found on random tokens: expected no tasks to rank heads on; "
                "leave them out, or rank by copying or cost."
            )
        self.targets()
        for task in setup.tasks:  # bad input is refused before any work is done
            refuse_no_chance(task, setup.protocols)
            setup.refuse_items(task)
            split = self.split_items(task)
            if not all(split.values()) and self.by != INDUCTION:
                raise UserError(
                    f"Task {task.name!r} has {count_noun(len(task.items), 'item')} that ask for "
                    "one thing: expected two things at least, one to rank heads on and one to "
                    "test; take more items."
                )

    def settings(self) -> dict[str, Any]:
        """Settings that make it these sets and no others."""
        given = {"by": self.by, "share": self.share, "random_sets": self.random_sets}
        return given if self.rank_on is None else given | {"rank_on": list(self.rank_on)}

    def targets(self) -> list[Target]:
        """The sets that are chosen."""
        tasks = self.setup.tasks
        if self.by == INDUCTION:
            return [Target((), tasks)]
        if self.rank_on is None:
            return [Target((task,), (task,)) for task in tasks]
        ranked = tuple(t for t in tasks if t.name in self.rank_on or t.capability in self.rank_on)
        if not ranked:
            names = ", ".join(task.name for task in tasks)
            raise UserError(
                f"None of the tasks ({names}) is one of those to rank heads on "
                f"({', '.join(self.rank_on)}): expected names or capabilities of tasks of the run."
            )
        return [Target(ranked, tasks)]

    def split_items(self, task: Task) -> dict[str, tuple[Item, ...]]:
        """The items that rank heads, and the others, which test; drawn by the seed."""
        if self.by == INDUCTION:
            return {SELECTION: (), HELD_OUT: task.items}
        clusters = Clusters.from_labels([item.cluster for item in task.items])
        order = stats.generator(self.setup.seed, "head sets", task.name).permutation(clusters.n)
        ranks = np.isin(clusters.codes, order[: clusters.n // 2])
        items = list(zip(task.items, ranks, strict=True))
        return {
            SELECTION: tuple(item for item, chosen in items if chosen),
            HELD_OUT: tuple(item for item, chosen in items if not chosen),
        }

    def run(
        self, parts: CheckpointStore, settings: dict[str, Any], progress: Meter
    ) -> HeadSetsResult:
        """Rank heads, then test sets; what was made before is taken as it is."""
        executor, targets = self.setup.executor, self.targets()
        ranks = self._ranking_units(targets)
        make_missing(executor, parts, progress, ranks, self._ranked_part)
        tables, sets = [], []
        for target in targets:
            ranked = self._rank_heads(target, parts)
            sets.append(self._sets(target, ranked))
            tables.append(self._ranked_rows(target, ranked, sets[-1]))
        units = [
            WorkUnit(
                self._names(target, task), f"removing heads: {task.name}",
                self._test_cost(task, self.setup.protocols).amount, (target, task, heads),
            )
            for target, heads in zip(targets, sets, strict=True)
            for task in target.tested_on
            if heads
        ]  # fmt: skip
        make_missing(executor, parts, progress, units, self._tested_part)
        names = [unit.names for unit in units]
        work = joined_work([parts.read_part(entry) for entry, _ in names])
        rows = table_rows(parts, "head_sets", [name for _, name in names])
        rows = rows if names else frame("head_sets", [])
        ranked = frame("ranked_heads", list(chain.from_iterable(tables)))
        return HeadSetsResult(rows, ranked, self.setup.facts(settings, work))

    def _ranking_units(self, targets: Sequence[Target]) -> list[WorkUnit]:
        if self.by == INDUCTION:
            return [WorkUnit((self._score_part(None),), "scoring heads", 0.0, (None,))]
        tasks = {task.name: task for target in targets for task in target.ranked_on}
        return [
            WorkUnit((self._score_part(task),), f"ranking heads: {task.name}",
                     self._ranking_cost(task).amount, (task,))
            for task in tasks.values()
        ]  # fmt: skip

    def _score_part(self, task: Task | None) -> str:
        return f"head scores {self.by}" + (f" {task.name}" if task else "")

    def _names(self, target: Target, task: Task) -> tuple[str, str]:
        of = f"{self.by} {target.name or 'random tokens'} {task.name}"
        return f"head_sets work {of}", f"head_sets {of}"

    def _ranked_part(self, task: Task | None) -> dict[str, pd.DataFrame]:
        """The scores of all heads by one task, or on random tokens."""
        if task is None:
            job = fitting_heads(self.setup.model, self.setup.loaded, THRESHOLD, self.setup.seed)
            summary = job.run(CheckpointStore(), job.settings(), Meter()).summary()
            named = {
                "layer": "layer", "head": "head", "score": "prefix_matching",
                "chosen": "induction_head", "n_items": "n_sequences",
            }  # fmt: skip
            table = pd.DataFrame({name: summary[column] for name, column in named.items()})
        else:
            score = copy_scores if self.by == COPYING else cost_estimates
            each = [score(self.setup.model, *gold) for gold in self._gold(task, SELECTION)]
            mean = np.mean(each, axis=0)
            layer, head = np.indices(mean.shape)
            table = pd.DataFrame({"layer": layer.ravel(), "head": head.ravel()})
            table = table.assign(score=mean.ravel(), n_items=len(each))
        return {self._score_part(task): table}

    def _gold(self, task: Task, split: str) -> Iterator[tuple[Tokens, Tokens]]:
        """The prompts of a split's items, and their right answers."""
        for item in self.split_items(task)[split]:
            asked = item if item.choices else replace(item, choices=(item.answer,))
            for request in self.setup.requests(task, asked, "continuation"):
                if request.gold:
                    assert isinstance(request.request, LogLikelihood)
                    yield request.request.context, request.request.continuation
                    break

    def _rank_heads(self, target: Target, parts: CheckpointStore) -> pd.DataFrame:
        """Scores of all heads, each task that ranks with the same weight, and those chosen."""
        tables = [
            parts.read_part(self._score_part(task)).sort_values(["layer", "head"])
            for task in target.ranked_on or (None,)
        ]
        first = tables[0].reset_index(drop=True)
        if self.by == INDUCTION:
            return first
        score = np.mean([table["score"].to_numpy(dtype=float) for table in tables], axis=0)
        cfg = self.setup.model.cfg
        n = max(1, round(self.share * cfg.n_layers * cfg.n_heads))
        chosen = top_heads(score.reshape(cfg.n_layers, cfg.n_heads), n)
        places = zip(first["layer"].tolist(), first["head"].tolist(), strict=True)
        n_items = sum(int(table["n_items"].iloc[0]) for table in tables)
        return first.assign(
            score=score, n_items=n_items, chosen=[place in chosen for place in places]
        )

    def _sets(self, target: Target, ranked: pd.DataFrame) -> list[list[Head]]:
        """The chosen heads and the random sets; none if no head or no random set can be found."""
        of = ranked.loc[ranked["chosen"]]
        chosen = list(zip(of["layer"].tolist(), of["head"].tolist(), strict=True))
        if not chosen:
            return []
        rng = stats.generator(self.setup.seed, "random heads", self.by, target.name or "")
        drawn = random_head_sets(chosen, self.setup.model.cfg.n_heads, self.random_sets, rng)
        return [chosen, *drawn] if drawn else []

    def _ranked_rows(
        self, target: Target, ranked: pd.DataFrame, sets: Sequence[Sequence[Head]]
    ) -> list[dict[str, Any]]:
        """Rows of ``ranked_heads``."""
        return [
            row
            | {
                "by": self.by,
                "ranked_on": target.name,
                "random": [
                    number for number, heads in enumerate(sets)
                    if number and (row["layer"], row["head"]) in heads
                ],
            }
            for row in ranked.to_dict("records")
        ]  # fmt: skip

    def _tested_part(
        self, target: Target, task: Task, sets: Sequence[Sequence[Head]]
    ) -> dict[str, pd.DataFrame]:
        """The answers of a task's items without each set, with the controls, and their cost."""
        setup = self.setup
        items = self.split_items(task)[HELD_OUT]
        requests = item_requests(setup, task, items, setup.protocols)
        blind = asked_blind(setup, task, items, setup.protocols)
        changes, sweeps = self._answers(task, sets, setup)
        rows = list(as_controls(record_rows(task, items, requests, changes, sweeps[0])))
        for sweep in sweeps[1:]:
            rows += blind_rows(task, blind, sweep)
        rows += guessed_rows(setup, task, items, setup.protocols)
        number = {change.id: at for at, change in enumerate(changes[2:])}
        same = {"by": self.by, "ranked_on": target.name}
        kept = [
            {name: value for name, value in row.items() if name in SCHEMAS["head_sets"].names}
            | {"set": number.get(row["intervention"])} | same
            for row in rows
        ]  # fmt: skip
        spent = sum((sweep.stats for sweep in sweeps[1:]), start=sweeps[0].stats)
        cost = cost_of_sweeps(setup, task, partial(self._answers, task, sets))
        entry = work_entry("head sets", task.name, spent) | planned_work(cost)
        names = self._names(target, task)
        return dict(zip(names, (pd.DataFrame([entry]), frame("head_sets", kept)), strict=True))

    def _answers(
        self, task: Task, sets: Sequence[Sequence[Head]], by: Sweeper
    ) -> tuple[list[Intervention], list[Sweep]]:
        """Changes and their answers, and those of the intact model to other items' questions."""
        setup, items = self.setup, self.split_items(task)[HELD_OUT]
        named = ["chosen heads", *(f"random heads {number}" for number in range(1, len(sets)))]
        removed = [
            replace(remove_heads(heads), id=name) for heads, name in zip(sets, named, strict=True)
        ]
        changes = [intact(), without_layers(setup.model), *removed]
        requests = item_requests(setup, task, items, setup.protocols)
        swept = by.sweep(changes, [request.request for request in requests])
        blind = asked_blind(setup, task, items, setup.protocols)
        return changes, [swept, *blind_answers(by, blind)]

    def expected_cost(self, task: Task, *protocols: str) -> Cost:
        """Expected cost of what a task ranks, and of the sets that are tested on it."""
        cost = Cost()
        for target in self.targets():
            if any(task.name == other.name for other in target.ranked_on):
                cost += self._ranking_cost(task)
            if any(task.name == other.name for other in target.tested_on):
                cost += self._test_cost(task, protocols)
        return cost

    def _ranking_cost(self, task: Task) -> Cost:
        prompts = [context for context, _ in self._gold(task, SELECTION)]
        return cost_of_prompts(self.setup, task, prompts).scale(_RUNS[self.by])

    def _test_cost(self, task: Task, protocols: Sequence[str]) -> Cost:
        """Cost of all sets of one target, whichever heads they have."""
        cfg = self.setup.model.cfg
        n = max(1, round(self.share * cfg.n_layers * cfg.n_heads))
        layers = np.linspace(0, cfg.n_layers - 1, n).astype(int)
        places = dict.fromkeys((int(layer), at % cfg.n_heads) for at, layer in enumerate(layers))
        sets = [  # unlike each other, as equal ones would be counted once
            [(layer, (head + number) % cfg.n_heads) for layer, head in places]
            for number in range(1 + self.random_sets)
        ]
        some = replace(self, setup=replace(self.setup, protocols=tuple(protocols)))
        make = partial(some._answers, task, sets)
        return cost_of_sweeps(self.setup, task, make)
