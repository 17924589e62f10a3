"""Activation patching: at which layer and position the answer is carried.

The corrupted prompt is run with one activation taken from the clean prompt's run (denoising);
what is measured is the share of the logit difference that comes back (Meng et al. 2022,
arXiv:2202.05262; Heimersheim and Nanda 2024, arXiv:2404.15255).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from transformer_lens import HookedTransformer

from layerwise._carry_out import carry_out
from layerwise._parts import Parts, together
from layerwise._progress import Meter
from layerwise._records import planned, work_entry
from layerwise._setup import Setup, TaskLike, prepare
from layerwise.errors import UserError, unknown_name
from layerwise.results import PatchingResult, patching_frame
from layerwise.sweep import LogLikelihood, Scored, SweepStats, intact, patch
from layerwise.sweep.cost import Cost
from layerwise.tasks import PatchingPrompts, Task, patching_prompts

PATCH_SITES = ("resid_pre", "attn_out", "mlp_out")
# Of the tokens between the changed ones and the last, at most so many are patched.
FURTHER = 4
PAIRS = 16


@dataclass(frozen=True)
class Position:
    """A position that is patched.

    Attributes:
        pos: from 0 in the prompt.
        label: where it stands relative to what was changed.
    """

    pos: int
    label: str


def positions_of(prompts: PatchingPrompts) -> list[Position]:
    """The positions worth patching: from the first changed token to the last of the prompt.

    Before the first changed token both runs are the same, so nothing can come back there. The
    labels are those of Meng et al. 2022 (arXiv:2202.05262, figure 2) with "changed" for
    "subject"; of further tokens a few, evenly spaced, stand for all.
    """
    pairs = enumerate(zip(prompts.clean, prompts.corrupted, strict=True))
    changed = [pos for pos, (clean, corrupted) in pairs if clean != corrupted]
    first, last, end = changed[0], changed[-1], len(prompts.clean) - 1
    found = [Position(first, "first changed")] if first < last else []
    found += [Position(pos, "middle changed") for pos in range(first + 1, last)]
    if last < end:
        found.append(Position(last, "last changed"))
    if last + 1 < end:
        found.append(Position(last + 1, "next"))
    between = list(range(last + 2, end))
    step = max(1, -(-len(between) // FURTHER))
    found += [Position(pos, "further") for pos in between[::step]]
    return [*found, Position(end, "last")]


def patch_activations(
    model: HookedTransformer,
    tasks: TaskLike | Sequence[TaskLike],
    *,
    sites: str | Sequence[str] = ("resid_pre",),
    pairs: int = PAIRS,
    limit: int | None = None,
    seed: int = 0,
    fewshot: int | None = None,
    out: str | Path | None = None,
    memory_budget: int | None = None,
    progress: bool = True,
) -> PatchingResult:
    """Patch each layer and position between a clean and a corrupted prompt.

    The pairs come from the tasks' items (another key, another subject); those are used of which
    the model prefers the right answer in both prompts, since elsewhere there is nothing to
    carry, and whose prompts have the same number of tokens.

    Args:
        model: the model.
        tasks: task names, capabilities, or ``Task`` values whose items have corruptions.
        sites: ``resid_pre``, ``attn_out``, ``mlp_out``.
        pairs: at most so many pairs of each task.
        limit: look for pairs among the first so many items of each task.
        seed: decides the items of built-in suites and all bootstraps.
        fewshot: number of few-shot examples; the task's own if None.
        out: folder for ``patching.parquet`` and ``run.json``; None keeps all in memory.
        memory_budget: bytes for activations; half of what is free if None.
        progress: show a progress bar on a terminal.

    Returns:
        One row per pair, site, layer and position.

    Raises:
        UserError: for anything unknown, or a task that has no pair that can be patched.
    """
    setup = prepare(
        model, tasks, ("continuation",), seed=seed, limit=limit, fewshot=fewshot,
        memory_budget=memory_budget, out=out,
    )  # fmt: skip
    wanted = (sites,) if isinstance(sites, str) else tuple(dict.fromkeys(sites))
    job = Patching(setup, wanted, pairs)
    settings = setup.settings(analysis="activation patching", **job.settings())
    (result,) = carry_out(
        lambda parts, told: [job.run(parts, settings, told)], out, settings, progress
    )
    return result


@dataclass(frozen=True)
class Patching:
    """A planned patching; one piece per task."""

    setup: Setup
    sites: tuple[str, ...]
    pairs: int
    strict: bool = True

    def __post_init__(self) -> None:
        for site in self.sites:
            if site not in PATCH_SITES:
                raise unknown_name("site", site, PATCH_SITES)
        if not self.sites:
            raise UserError(
                f"No site is left to patch; name at least one of {', '.join(PATCH_SITES)}."
            )
        if self.pairs < 1:
            raise UserError(f"At least one pair is needed for patching, not {self.pairs}.")
        if "mlp_out" in self.sites and self.setup.model.cfg.attn_only:
            raise UserError("The model's blocks have no MLP; choose site resid_pre or attn_out.")
        for task in self.setup.tasks:  # bad input is told before any work is done
            usable = self._usable(task)
            if self.strict and not usable:
                raise UserError(self._why_none(task))
            self._refuse_long(task, usable)

    def settings(self) -> dict[str, Any]:
        """What makes it this patching and no other."""
        return {"sites": list(self.sites), "pairs": self.pairs}

    def _prompts(self, task: Task) -> list[PatchingPrompts]:
        found = (patching_prompts(task, item, self.setup.tokenizer) for item in task.items)
        return [prompts for prompts in found if prompts is not None]

    def _usable(self, task: Task) -> list[PatchingPrompts]:
        return [prompts for prompts in self._prompts(task) if prompts.problem is None]

    def _refuse_long(self, task: Task, usable: Sequence[PatchingPrompts]) -> None:
        room = self.setup.model.cfg.n_ctx
        for prompts in usable:
            if len(prompts.clean) > room:
                raise UserError(
                    f"Item {prompts.item!r} of task {task.name!r} needs {len(prompts.clean)} "
                    f"tokens, but the model takes {room}; take fewer few-shot examples or a "
                    "shorter context."
                )

    def _why_none(self, task: Task) -> str:
        problems = [prompts.problem for prompts in self._prompts(task)]
        if problems:
            return f"No pair of task {task.name!r} can be patched: {problems[0]}"
        return (
            f"Task {task.name!r} has no pairs for activation patching; "
            "choose a task whose items have a corruption, e.g. kv-words or facts."
        )

    def run(self, parts: Parts, settings: dict[str, Any], told: Meter) -> PatchingResult:
        """Make the pieces that are missing, and join all of them."""
        tasks = [task for task in self.setup.tasks if self._usable(task)]
        costs = [self.expected(task) for task in tasks]
        told.expect(sum((cost.amount for cost in costs), start=0.0))
        for task, cost in zip(tasks, costs, strict=True):
            told.doing(f"activation patching, {task.name}")
            if not parts.has_part(f"patching {task.name}"):
                rows, work = self._piece(task)
                entry = work | planned(cost)
                parts.write_part(f"patching work {task.name}", pd.DataFrame([entry]))
                parts.write_part(f"patching {task.name}", patching_frame(rows))
            told.done(cost.amount)
        names = [task.name for task in tasks]
        work = together(parts, [f"patching work {name}" for name in names]).to_dict("records")
        table = together(parts, [f"patching {name}" for name in names]) if names else None
        facts = self.setup.facts(settings, work)
        return PatchingResult(patching_frame([]) if table is None else table, facts)

    def expected(self, task: Task) -> Cost:
        """What a task is expected to cost: as if the model solved the first pairs."""
        usable = self._usable(task)
        if not usable:
            return Cost()
        total = self.setup.cost(task, [intact()], _both(usable))
        for prompts in usable[: self.pairs]:
            patches = [patch(site, layer, at.pos) for site, layer, at in self._points(prompts)]  # type: ignore[arg-type]
            asked = _asked(prompts, prompts.corrupted, prompts.clean)
            total += self.setup.cost(task, patches, asked)
        return total

    def _points(self, prompts: PatchingPrompts) -> list[tuple[str, int, Position]]:
        """The sites, layers and positions of one pair that are patched."""
        return [
            (site, layer, position)
            for site in self.sites
            for position in positions_of(prompts)
            for layer in range(self.setup.model.cfg.n_layers)
        ]

    def _piece(self, task: Task) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        known, differences, stats = self._solved(task, self._usable(task))
        rows: list[dict[str, Any]] = []
        for prompts in known:
            found, cost = self._grid(prompts, *differences[prompts.item])
            rows += [{"task": task.name, "capability": task.capability, **row} for row in found]
            stats = stats + cost
        work = work_entry("activation patching", task.name, stats)
        return rows, {**work, "pairs": len(known)}

    def _solved(
        self, task: Task, usable: Sequence[PatchingPrompts]
    ) -> tuple[list[PatchingPrompts], dict[str, tuple[float, float]], SweepStats]:
        """The first pairs that the intact model solves, their two differences, the cost."""
        swept = self.setup.sweep([intact()], _both(usable))
        values = [_logprob(outcome) for outcome in swept.outcomes[0]]
        solved, differences = [], {}
        for i, prompts in enumerate(usable):
            a, b, c, d = values[4 * i : 4 * i + 4]
            if a - b > 0 > c - d and len(solved) < self.pairs:
                solved.append(prompts)
                differences[prompts.item] = (a - b, c - d)
        return solved, differences, swept.stats

    def _grid(
        self, prompts: PatchingPrompts, clean: float, corrupted: float
    ) -> tuple[list[dict[str, Any]], SweepStats]:
        """Recovered share at every site, layer and position of one pair."""
        grid = self._points(prompts)
        swept = self.setup.sweep(
            [patch(site, layer, position.pos) for site, layer, position in grid],  # type: ignore[arg-type]
            _asked(prompts, prompts.corrupted, prompts.clean),
        )
        rows = []
        for (site, layer, position), outcomes in zip(grid, swept.outcomes, strict=True):
            patched = _logprob(outcomes[0]) - _logprob(outcomes[1])
            rows.append(
                {
                    "item": prompts.item,
                    "protocol": "continuation",
                    "site": site,
                    "layer": layer,
                    "pos": position.pos,
                    "pos_label": position.label,
                    "clean_diff": clean,
                    "corrupted_diff": corrupted,
                    "patched_diff": patched,
                    "recovered": (patched - corrupted) / (clean - corrupted),
                }
            )
        return rows, swept.stats


def _asked(
    prompts: PatchingPrompts, context: tuple[int, ...], source: tuple[int, ...] | None = None
) -> list[LogLikelihood]:
    """Both answers' first tokens after a prompt; a logit difference needs no more."""
    answers = (prompts.clean_answer, prompts.corrupted_answer)
    return [LogLikelihood(context, (answer,), source) for answer in answers]


def _both(usable: Sequence[PatchingPrompts]) -> list[LogLikelihood]:
    """Both answers after both prompts of each pair."""
    return [r for p in usable for r in (*_asked(p, p.clean), *_asked(p, p.corrupted))]


def _logprob(outcome: object) -> float:
    assert isinstance(outcome, Scored)
    return outcome.logprob
