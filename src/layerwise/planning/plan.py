"""Cost of a run, by the analyses' own pieces, before it is made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Unpack

import pandas as pd

from layerwise.analyses.arguments import Protocols, Tasks, check_arguments
from layerwise.analyses.contract import PlannableAnalysis, PlannedJob, PlannedJobs
from layerwise.analyses.registry import PLANS
from layerwise.errors import UserError
from layerwise.ground.argument_types import known_name_validator
from layerwise.ground.arguments import select_options, typed_dict_arguments
from layerwise.models import load_model
from layerwise.models.arguments import ModelOrName
from layerwise.models.decoder.packed import weight_bytes
from layerwise.models.huggingface.folder import has_weights
from layerwise.models.instance.exclusive import exclusive
from layerwise.models.instance.facts import model_origin
from layerwise.models.instance.kinds import Model
from layerwise.models.meta_model import is_meta_model, load_meta_model
from layerwise.profiling.api import PLANNED as PROFILE
from layerwise.profiling.api import ExtraNames
from layerwise.runs.options import ALSO, LoadingOptions, PlanOptions, PromptOptions
from layerwise.runs.progress import seconds_in_words
from layerwise.runs.setup import Setup, prepare
from layerwise.sweep.plans.cost import Cost
from layerwise.sweep.plans.memory import free_memory
from layerwise.tasks.task import refuse_fewshot_seeds

from .timing import PlannedSetup, PlannedSweep, TimedWork, few_texts, measure_speed, time_sweeps

PLANNED: dict[str, PlannableAnalysis] = {**PLANS, PROFILE.name: PROFILE}
NO_TIME = "No time is estimated, and texts are taken to be half as long as they may be, since {}."
# Texts that may be no longer than this many tokens cost too little to be tried for their length.
SHORT = 8


@dataclass
class WithWeights:
    """The models of a plan, each of which is loaded once."""

    untimed: bool  # whether none is to be loaded
    backend: str = "auto"  # what is to run them
    # By the id of a model or meta model the model itself.
    loaded: dict[int, Model] = field(default_factory=dict)

    def why_not(self, model: Model) -> str | None:
        """Load a model; in words why it cannot be had here."""
        if self.untimed:
            return "no sample is run (untimed)"
        if not is_meta_model(model):
            self.loaded[id(model)] = model
        if id(model) in self.loaded:
            return None
        origin = model_origin(model)
        if origin is None or origin.folder is None or not has_weights(origin.folder):
            return "the model's weights are not on this machine"
        if weight_bytes(model) > free_memory("cpu") // 2:
            return "the model's weights, loaded and compared, do not fit into this machine's memory"
        facts = origin.facts
        self.loaded[id(model)] = load_model(
            facts.name, dtype=facts.dtype, device=facts.device, backend=self.backend
        )
        return None

    def model(self, model: Model) -> Model:
        """The model of a meta model, which was loaded."""
        return self.loaded[id(model)]

    def setup(self, setup: Setup) -> Setup:
        """A setup of a meta model with the model itself."""
        return replace(setup, model=self.model(setup.model))


@dataclass(frozen=True)
class PlanRow:
    """Cost of one task under one protocol.

    Attributes:
        analysis: ``ablation``, ``lens``, ``patching``, ``attribution``, ``similarity`` or
            ``transplant``; of a distillation ``training``, or which of its models is asked.
        task: the task's name; of a training its texts.
        protocol: how it is put to the model; of a training its steps.
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
    """Cost of a planned run; ``str`` makes a table of it.

    Attributes:
        rows: each task and protocol on its own.
        total: all of it, as it is run: prompts that protocols share are run once.
        seconds: about how long all of it takes here; None if that is unknown.
        memory_budget: bytes that activations, keys and values may take.
        tokens_at_once: how many tokens are pushed through a block at once.
        weight_bytes: bytes of all weights in memory, with gradients and the optimizer's memory
            where something is trained.
        notes: what one should know to read the numbers, a sentence each.
    """

    rows: tuple[PlanRow, ...]
    total: Cost
    seconds: float | None
    memory_budget: int
    tokens_at_once: int
    weight_bytes: int
    notes: tuple[str, ...]

    def __str__(self) -> str:
        shown = []
        for row in (*self.rows, PlanRow("total", "", "", self.total, self.seconds)):
            cost, passes = row.cost, row.cost.token_passes
            fewer = cost.brute_force_token_passes / passes if passes else 1.0
            shown.append({
                "analysis": row.analysis,
                "task": row.task,
                "protocol": row.protocol,
                "requests": f"{cost.requests:,}",
                "changes": f"{cost.interventions:,}",
                "walks": f"{cost.walks:,}",
                "token-passes": f"{passes:,.0f}",
                "fewer": f"{fewer:.1f} x",
                "TFLOP": f"{cost.flop / 1e12:.3g}",
                "GiB": f"{cost.peak_bytes / 2**30:.2f}",
                "time here": "?" if row.seconds is None else seconds_in_words(row.seconds),
            })  # fmt: skip
        sizes = (
            f"Memory budget: {self.memory_budget / 2**30:.4g} GiB. Tokens pushed through a block "
            f"at once: {self.tokens_at_once:,}. Weights: {self.weight_bytes / 2**30:.4g} GiB."
        )
        return "\n".join([pd.DataFrame(shown).to_string(index=False), sizes, *self.notes])


class ProfilePlanOptions(PlanOptions, total=False):
    """Options of a plan, with the names that a profile's additions have."""

    also: Annotated[ExtraNames, (), ALSO]


@check_arguments(refuse_fewshot_seeds)
@exclusive
def plan_run(
    model: ModelOrName,
    tasks: Tasks | None = None,
    protocols: Protocols | None = None,
    *,
    analysis: Annotated[str, known_name_validator("analysis", tuple(PLANNED))] = "ablation",
    untimed: bool = False,
    **options: Unpack[ProfilePlanOptions],
) -> RunPlan:
    """Estimate a run before it starts: work, memory, and time on this machine.

    How long it takes is told from a small sample of the very sweeps that are planned, which the
    model itself runs for a few seconds. How long texts get is tried on some items.

    Args:
        model: a model's name, or a model. Of one that is named only configuration and tokenizer
            are fetched; its weights are loaded for the sample if they are on this machine. Of
            ``distill`` it is the teacher, of ``heal`` the folder of the pruned model.
        tasks: as for the analysis; what it takes if none are named.
        protocols: as for the analysis; what it takes if none are named, and for patching always
            ``continuation``.
        analysis: ``ablation``, ``lens``, ``patching``, ``attribution``, ``similarity``,
            ``early-exit``, ``transplant``, ``profile``, ``replicate``, ``distill`` or ``heal``.
        untimed: run no sample: no weights are read and no time is estimated.

    Raises:
        UserError: for anything that the analysis would refuse.
    """
    planned = PLANNED[analysis]
    refuse_fewshot_seeds(options["fewshot_seeds"])
    _refuse_unused_options(planned, options)
    how = select_options(LoadingOptions, options)
    subject = model if isinstance(model, Model) else load_meta_model(model, **how)
    if planned.own_tasks is not None:
        if tasks is not None:
            raise UserError(
                f"Tasks were named, but {analysis} asks those of its claims: expected no tasks; "
                "name claims instead."
            )
        tasks = list(planned.own_tasks(subject, options))
    if protocols is None or planned.paired:
        protocols = planned.protocols
    prepared = prepare(
        subject, tasks, protocols, enough=planned.enough,
        paired=planned.paired, **select_options(PromptOptions, options),
    )  # fmt: skip
    setup = PlannedSetup(**vars(prepared))
    return _plan_jobs(planned.jobs(setup, options), setup, WithWeights(untimed, options["backend"]))


def _plan_jobs(planned: PlannedJobs, setup: PlannedSetup, known: WithWeights) -> RunPlan:
    """The plan of some jobs: their work, and its seconds by a sample of their sweeps."""
    jobs, notes = planned.by_name, list(planned.notes)
    models = [setup.model, *(job.setup.model for job in jobs.values())]
    models += [model for training in planned.trainings.values() for model in training.models]
    unknown = next((why for model in models if (why := known.why_not(model))), None)
    if unknown is not None:
        notes.append(NO_TIME.format(unknown))
    texts = {} if unknown is not None else _few_texts(jobs, known)
    rows: list[PlanRow] = []  # none of a task that offers a job nothing
    sweeps: dict[str, list[PlannedSweep]] = {}
    for name, job in jobs.items():
        for task, protocol in job.setup.pieces():
            cost = job.expected_cost(task, protocol)
            if cost.requests:
                rows.append(PlanRow(name, task.name, protocol, cost))
                sweeps.setdefault(name, []).extend(setup.sweeps)
                setup.sweeps.clear()
    costs = list(_costs(jobs, rows))
    trainings = {name: training.cost() for name, training in planned.trainings.items()}
    total = sum((cost for _, cost in costs), start=sum(trainings.values(), start=Cost()))
    if total.most_text_token_passes:
        notes.append(
            f"Generated texts: {total.text_token_passes:,.0f} token-passes expected, "
            f"{total.most_text_token_passes:,} at most."
        )
    seconds, trained = None, dict.fromkeys(trainings)
    if unknown is None:
        speeds = {
            name: measure_speed(known.setup(jobs[name].setup), of, texts.get(name))
            for name, of in sweeps.items()
        }
        trained = {name: job.seconds(known.model) for name, job in planned.trainings.items()}
        seconds = sum(speeds[name].seconds(cost) for name, cost in costs) + sum(trained.values())
        rows = [replace(row, seconds=speeds[row.analysis].seconds(row.cost)) for row in rows]
    if planned.power is not None:
        more = planned.power.enough / planned.power.items
        notes.append(
            planned.power.note("" if seconds is None else seconds_in_words(seconds * more))
        )
    of_trainings = [
        PlanRow(name, *training.words, trainings[name], trained[name])
        for name, training in planned.trainings.items()
    ]
    weights = max(total.weight_bytes, weight_bytes(setup.model))
    sizes = (setup.memory_budget, setup.tokens_at_once, weights)
    return RunPlan((*of_trainings, *rows), total, seconds, *sizes, tuple(notes))


def _few_texts(jobs: Mapping[str, PlannedJob], known: WithWeights) -> dict[str, TimedWork]:
    """By job that writes, the time of a few of its model's texts; their lengths go to its setup."""
    timed: dict[int, TimedWork] = {}
    writing = {name: job.setup for name, job in jobs.items() if "generate" in job.setup.protocols}
    for setup in writing.values():
        if id(setup.model) not in timed:
            whole = known.setup(setup)
            long = [task for task in setup.tasks if task.max_tokens > SHORT]
            tried = [few_texts(whole, task) for task in long or setup.tasks[:1]]
            timed[id(setup.model)] = time_sweeps(whole, tried, into=setup.lengths)
    return {name: timed[id(setup.model)] for name, setup in writing.items()}


def _refuse_unused_options(planned: PlannableAnalysis, options: PlanOptions) -> None:
    """Refuse options that only the plan of another analysis has, where one was given."""
    owners = {name: other.name for other in reversed(PLANNED.values()) for name in other.options}
    unused = owners.keys() - planned.options
    usual = typed_dict_arguments(PlanOptions)
    wrong = [name for name in usual if name in unused and options[name] != usual[name].default]
    if wrong:
        owner = owners[wrong[0]]
        raise UserError(
            f"{wrong[0]!r} was given, which only the plan of {owner!r} has, and the plan of "
            f"{planned.name!r} would be the same without it; plan {owner!r}, or leave it out."
        )


def _costs(jobs: Mapping[str, PlannedJob], rows: Sequence[PlanRow]) -> Iterator[tuple[str, Cost]]:
    """Cost of the jobs of some rows as they are run: protocols that are asked together."""
    known: dict[tuple[str, ...], Cost] = {
        (row.analysis, row.task, row.protocol): row.cost for row in rows
    }
    for name, job in jobs.items():
        protocols = job.setup.protocols
        for task in job.setup.tasks:
            alone = known.get((name, task.name, *protocols))
            cost = job.expected_cost(task, *protocols) if alone is None else alone
            if cost.requests:
                yield name, cost
