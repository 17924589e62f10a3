"""What a run would cost, before it is made: work, memory, and time on this machine.

The pieces are those that the analyses themselves would make; weights are needed only to find out
how fast the model is here (``timing``), and how long its texts get.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from layerwise.analyses.ablation.spec import KINDS
from layerwise.analyses.arguments import check_arguments, model_or_name
from layerwise.analyses.planned import Planned, PlannedJob, PlanOptions
from layerwise.errors import UserError
from layerwise.ground.readers import one_of
from layerwise.models import load_model
from layerwise.models.folder import has_weights
from layerwise.models.in_turn import in_turn
from layerwise.models.kinds import Model
from layerwise.models.meta_model import is_meta_model, load_meta_model
from layerwise.profiling.extras import read_extras
from layerwise.runs.records import seconds_in_words
from layerwise.runs.setup import TaskLike, paired_tasks, prepare
from layerwise.sweep.cost import Cost
from layerwise.sweep.memory import free_memory
from layerwise.tasks.task import refuse_fewshot_seeds

from .analyses import PLANNED
from .timing import PlannedSetup, PlannedSweep, few_texts, speed_of, time_texts

NO_TIME = "No time is estimated, and texts are taken to be half as long as they may be, since {}."
# Texts that may be no longer than this many tokens cost too little to be tried for their length.
SHORT = 8


@dataclass(frozen=True)
class PlanRow:
    """What one task costs under one protocol.

    Attributes:
        analysis: ``ablation``, ``lens``, ``patching``, ``attribution``, ``similarity`` or
            ``transplant``.
        task: the task's name.
        protocol: how it is put to the model.
        cost: what that costs on its own.
        seconds: about how long it takes here; None if that is unknown.
    """

    analysis: str
    task: str
    protocol: str
    cost: Cost
    seconds: float | None = None


@dataclass(frozen=True)
class RunPlan:
    """What a run would cost; ``str`` makes a table of it.

    Attributes:
        rows: each task and protocol on its own.
        total: all of it, as it is run: prompts that protocols share are run once.
        seconds: about how long all of it takes here; None if that is unknown.
        memory_budget: bytes that activations, keys and values may take.
        tokens_at_once: how many tokens are pushed through a block at once.
        notes: what one should know to read the numbers, a sentence each.
    """

    rows: tuple[PlanRow, ...]
    total: Cost
    seconds: float | None
    memory_budget: int
    tokens_at_once: int
    notes: tuple[str, ...]

    def __str__(self) -> str:
        total = PlanRow("total", "", "", self.total, self.seconds)
        table = pd.DataFrame([_shown(row) for row in (*self.rows, total)])
        sizes = (
            f"Memory budget: {self.memory_budget / 2**30:.4g} GiB. Tokens pushed through a block "
            f"at once: {self.tokens_at_once:,}."
        )
        return "\n".join([table.to_string(index=False), sizes, *self.notes])


def _shown(row: PlanRow) -> dict[str, str]:
    cost = row.cost
    fewer = cost.brute_force_token_passes / cost.token_passes if cost.token_passes else 1.0
    return {
        "analysis": row.analysis,
        "task": row.task,
        "protocol": row.protocol,
        "requests": f"{cost.requests:,}",
        "changes": f"{cost.interventions:,}",
        "walks": f"{cost.walks:,}",
        "token-passes": f"{cost.token_passes:,.0f}",
        "fewer": f"{fewer:.1f} x",
        "TFLOP": f"{cost.flop / 1e12:.3g}",
        "GiB": f"{cost.peak_bytes / 2**30:.2f}",
        "time here": "?" if row.seconds is None else seconds_in_words(row.seconds),
    }


@check_arguments(
    refuse_fewshot_seeds,
    model=model_or_name,
    also=read_extras,
    analysis=one_of("analysis", tuple(PLANNED)),
    kind=one_of("kind of ablation", KINDS),
)
@in_turn
def plan_run(
    model: str | os.PathLike[str] | Model,
    tasks: TaskLike | Sequence[TaskLike] | None = None,
    protocols: str | Sequence[str] | None = None,
    *,
    analysis: str = "ablation",
    kind: str = "skip",
    site: str | None = None,
    layers: Sequence[int | str] | None = None,
    draws: int = 1,
    pairs: int = 16,
    exhaustive: bool = False,
    also: str | Sequence[str] = (),
    limit: int | None = None,
    seed: int = 0,
    fewshot: int | None = None,
    fewshot_seeds: int = 1,
    chat: bool = False,
    dtype: str = "float32",
    device: str = "cpu",
    memory_budget: int | None = None,
    untimed: bool = False,
) -> RunPlan:
    """Say what a run would cost before it is made: work, memory, and time here.

    How long it takes is told from a small sample of the very sweeps that are planned, which the
    model itself runs for a few seconds. How long texts get is tried on some items.

    Args:
        model: a model's name, or a model. Of one that is named only configuration and tokenizer
            are fetched; its weights are loaded for the sample if they are on this machine.
        tasks: as for the analysis; what it takes if none are named.
        protocols: as for the analysis; what it takes if none are named, and for patching always
            ``continuation``.
        analysis: ``ablation``, ``lens``, ``patching``, ``attribution``, ``similarity``,
            ``transplant`` or ``profile``.
        kind: of the ablation.
        site: of the ablation or the transplant.
        layers: of the ablation or the transplant; all if None.
        draws: of the ablation's noise or donors, for each item.
        pairs: pairs of prompts a task for patching.
        exhaustive: of a profile: skip layers also where there is no signal.
        also: what a profile does beyond its main analyses, as for ``profile``; what of that is
            not planned is told in the notes.
        limit: take the first so many items of each task.
        seed: decides the items of built-in suites.
        fewshot: number of few-shot examples; the task's own if None.
        fewshot_seeds: draws of the examples that an ablation asks with.
        chat: wrap prompts in the tokenizer's chat template.
        dtype: number format of a model given by name.
        device: where a model given by name would be.
        memory_budget: bytes for activations, keys and values; half of what is free if None.
        untimed: run no sample, so that no weights are read and no time is told.

    Raises:
        UserError: for anything that the analysis would refuse.
    """
    options = PlanOptions(
        kind, site, None if layers is None else tuple(layers), pairs, exhaustive,
        (also,) if isinstance(also, str) else tuple(also), draws, fewshot_seeds,
    )  # fmt: skip
    planned = PLANNED[analysis]
    refuse_fewshot_seeds(fewshot_seeds)
    _refuse_unused(planned, options)
    given = isinstance(model, Model)
    subject = model if given else load_meta_model(model, dtype=dtype, device=device)
    if planned.paired:
        tasks, protocols = paired_tasks(subject, tasks), None
    prepared = prepare(
        subject, "all" if tasks is None else tasks,
        planned.protocols if protocols is None else protocols,
        seed=seed, limit=limit, fewshot=fewshot, chat=chat, memory_budget=memory_budget,
    )  # fmt: skip
    setup = PlannedSetup(**vars(prepared))
    jobs, notes = planned.jobs(setup, options)
    return _plan_of(jobs, setup, list(notes), untimed)


def _plan_of(
    jobs: Mapping[str, PlannedJob], setup: PlannedSetup, notes: list[str], untimed: bool
) -> RunPlan:
    """The plan of some jobs: their work, and its seconds by a sample of their sweeps."""
    known = "it was not asked for" if untimed else _setup_with_weights(setup)
    writing = {name for name, job in jobs.items() if "generate" in job.setup.protocols}
    few = None
    if isinstance(known, str):
        notes.append(NO_TIME.format(known))
    elif writing:
        long = [task for task in setup.tasks if task.generate.max_tokens > SHORT]
        tried = [few_texts(known, task) for task in long or setup.tasks[:1]]
        few = time_texts(known, tried, found=setup.lengths)
    rows: list[PlanRow] = []
    sweeps: dict[str, list[PlannedSweep]] = {}
    for row in _rows(jobs):
        rows.append(row)
        sweeps.setdefault(row.analysis, []).extend(setup.asked)
        setup.asked.clear()
    costs = list(_costs(jobs, rows))
    total = sum((cost for _, cost in costs), start=Cost())
    if total.most_text_token_passes:
        notes.append(
            f"Generated texts: {total.text_token_passes:,.0f} token-passes expected, "
            f"{total.most_text_token_passes:,} at most."
        )
    seconds = None
    if not isinstance(known, str):
        speeds = {
            name: speed_of(known, planned, few if name in writing else None)
            for name, planned in sweeps.items()
        }
        seconds = sum(speeds[name].seconds(cost) for name, cost in costs)
        rows = [replace(row, seconds=speeds[row.analysis].seconds(row.cost)) for row in rows]
    sizes = (setup.memory_budget, setup.tokens_at_once)
    return RunPlan(tuple(rows), total, seconds, *sizes, tuple(notes))


def _setup_with_weights(setup: PlannedSetup) -> PlannedSetup | str:
    """The setup with the model itself; in words why there is none if it cannot be had here."""
    model, loaded = setup.model, setup.loaded
    if not is_meta_model(model):
        return setup
    if not has_weights(Path(str(getattr(model.cfg, "tokenizer_name", model.cfg.model_name)))):
        return "the model's weights are not on this machine"
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    if size > free_memory("cpu") // 2:
        return "the model's weights, loaded and compared, do not fit into this machine's memory"
    model = load_model(loaded.name, dtype=loaded.dtype, device=loaded.device)
    return replace(setup, model=model)


def _refuse_unused(planned: Planned, options: PlanOptions) -> None:
    """Refuse options that only the plan of another analysis has, where one was given."""
    owners = {name: other.name for other in reversed(PLANNED.values()) for name in other.options}
    unused = owners.keys() - planned.options
    wrong = [name for name in options.given() if name in unused]
    if "also" in wrong:
        raise UserError(
            f"{options.also[0]!r} was asked for beside {planned.name!r}, but only a profile has "
            "more; plan 'profile', or leave it out."
        )
    if wrong:
        owner = owners[wrong[0]]
        raise UserError(
            f"{wrong[0]!r} was given, which only the plan of {owner!r} has, and the plan of "
            f"{planned.name!r} would be the same without it; plan {owner!r}, or leave it out."
        )


def _rows(jobs: Mapping[str, PlannedJob]) -> Iterator[PlanRow]:
    """Each task and protocol on its own; none of a task that offers a job nothing."""
    for name, job in jobs.items():
        for task, protocol in job.setup.pieces():
            cost = job.expected(task, protocol)
            if cost.requests:
                yield PlanRow(name, task.name, protocol, cost)


def _costs(jobs: Mapping[str, PlannedJob], rows: Sequence[PlanRow]) -> Iterator[tuple[str, Cost]]:
    """What the jobs of some rows cost as they are run: protocols that are asked together."""
    known: dict[tuple[str, ...], Cost] = {
        (row.analysis, row.task, row.protocol): row.cost for row in rows
    }
    for name, job in jobs.items():
        protocols = job.setup.protocols
        for task in job.setup.tasks:
            alone = known.get((name, task.name, *protocols))
            cost = job.expected(task, *protocols) if alone is None else alone
            if cost.requests:
                yield name, cost
