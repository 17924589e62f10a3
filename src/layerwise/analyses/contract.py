"""Contract of an analysis with everything that stands across analyses: one value, ``ANALYSIS``.

Pages and notebooks need tables alone of it; what runs a model is imported when jobs are made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import pandas as pd

from layerwise.presentation.claim import Claim
from layerwise.presentation.power import PlannedPower
from layerwise.presentation.section import Section
from layerwise.runs.checkpoints import CheckpointStore
from layerwise.runs.options import PlanOptions
from layerwise.runs.progress import Meter
from layerwise.stats.depth.layer_curves import ExcludedTask, MethodCurve, Sampling, Signal
from layerwise.storage.base import Result
from layerwise.storage.run_tables import RunTables, TableSource
from layerwise.tasks import PROTOCOLS, Task

if TYPE_CHECKING:
    from layerwise.models.instance.kinds import Model
    from layerwise.runs.setup import Enough, Setup
    from layerwise.sweep.plans.cost import Cost

_Made = TypeVar("_Made", covariant=True)


@runtime_checkable
class Job(Protocol[_Made]):
    """An analysis of one result whose arguments were checked."""

    def run(self, parts: CheckpointStore, settings: dict[str, Any], progress: Meter) -> _Made:
        """Make the pieces that are missing, and join all of them."""
        ...


@runtime_checkable
class PlannedJob(Protocol):
    """A job that knows what it costs."""

    @property
    def setup(self) -> Setup:
        """Setup that it starts from: the tasks and protocols that its cost is told of."""
        ...

    def expected_cost(self, task: Task, /, *protocols: str) -> Cost:
        """Expected cost of a task under some protocols, asked together."""
        ...


@runtime_checkable
class CountedJob(Protocol):
    """A job that asks no task and knows how much work it is."""

    def amount(self) -> float:
        """The work of all of it."""
        ...


def planned_amount(job: object) -> float:
    """The work of a job, at most; 0 of one that cannot count it before it is made."""
    if not isinstance(job, PlannedJob):
        return job.amount() if isinstance(job, CountedJob) else 0.0
    pieces = job.setup.pieces()
    return sum((job.expected_cost(task, protocol).amount for task, protocol in pieces), start=0.0)


class PlannedTraining(Protocol):
    """Work that is no sweep: steps of a training."""

    @property
    def words(self) -> tuple[str, str]:
        """Text of a plan's row in place of task and protocol."""
        ...

    def cost(self) -> Cost:
        """Cost of all of it."""
        ...

    def seconds(self, loaded: Callable[[Model], Model], /) -> float:
        """About how long it takes, from some steps of models that are ``loaded`` of meta models."""
        ...

    @property
    def models(self) -> Sequence[Model]:
        """The models that it needs, or their meta models."""
        ...


class PlannedJobs(NamedTuple):
    """The jobs of an analysis by the names of their rows, and what one should know of them."""

    by_name: Mapping[str, PlannedJob]
    notes: tuple[str, ...] = ()
    trainings: Mapping[str, PlannedTraining] = MappingProxyType({})
    power: PlannedPower | None = None


@dataclass(frozen=True)
class PlannableAnalysis:
    """An analysis that can be planned."""

    name: str  # by which its plan is asked for
    # Its jobs, of a setup and the options of the plan.
    jobs: Callable[[Setup, PlanOptions], PlannedJobs]
    protocols: tuple[str, ...] = PROTOCOLS  # those it takes if none are named
    # Whether it asks pairs of prompts: by default of the tasks that offer them, and under its
    # protocols alone.
    paired: bool = False
    options: tuple[str, ...] = ()  # names of ``PlanOptions`` that its plan alone has
    enough: Enough | None = None  # how many items it asks where no limit is given; None for all
    # Names of the tasks it asks, of a model and the plan's options, where nobody names them.
    own_tasks: Callable[[Any, PlanOptions], Sequence[str]] | None = None


@dataclass(frozen=True)
class ProfileStart:
    """Jobs and setups of a profile when its main analyses are made."""

    able: Setup  # a setup with the tasks that the model can do; none may be left
    reading: Setup  # the same with protocols that have a prompt to read
    pairs: int  # pairs of prompts a task


@dataclass(frozen=True)
class Extra:
    """Extra analysis of a profile, beyond its main ones."""

    name: str  # by which it is asked for
    words: str  # what it does
    # Its jobs; none if the main analyses change or patch more by it.
    jobs: Callable[[ProfileStart], Iterable[Job[Result]]] = lambda start: ()
    asks_tasks: bool = True  # whether it is made only where a task is left that the model can do
    # Whether a plan can say what it costs: its jobs know (``PlannedJob``), or it is part of the
    # main analyses.
    planned: bool = False
    in_all: bool = True  # whether ``all`` means it too
    # Raises a ``UserError`` for the configuration of a model that does not allow it.
    refuse: Callable[[Any], None] = lambda cfg: None


def reads_prompts(
    name: str,
    words: str,
    make: Callable[[Setup, bool], Any],  # bool: whether of a profile
) -> tuple[tuple[PlannableAnalysis], tuple[Extra]]:
    """The plan of an analysis that reads prompts, and its addition to a profile."""

    def plan_jobs(setup: Setup, options: PlanOptions) -> PlannedJobs:
        return PlannedJobs({name: make(setup, False)})

    return (
        (PlannableAnalysis(name, plan_jobs, ("letter", "continuation")),),
        (Extra(name, words, lambda start: [make(start.reading, True)], planned=True),),
    )


def saved_tables(result: Result, others: Sequence[Result]) -> dict[str, pd.DataFrame]:
    """All tables that a result saves, by the names of their files."""
    own = {name: getattr(result, name) for name in result.tables}
    return own | result.derived_tables()


@dataclass(frozen=True)
class Curves:
    """Source of an analysis' curves over the layers, which ``emergence`` joins."""

    words: str  # what makes such curves, after "expected an ..."
    # What a result says of each task, or why it says nothing; given the signal that is known of
    # tasks, and the resamples.
    evidence: Callable[[Any, Signal, Sampling], Iterable[MethodCurve | ExcludedTask]]
    # Which tasks the model can do, of a result that tests it; other results' curves are asked after
    # it is known.
    signal: Callable[[Any], Signal] | None = None


@dataclass(frozen=True)
class Analysis:
    """An analysis, as everything that stands across analyses sees it."""

    name: str  # of its folder
    result: type[Result]  # the type of its result, which draws itself by ``plot``
    # Its parts of a run's page; none where its tables are missing.
    sections: Callable[[RunTables], Iterable[Section]] = lambda run: ()
    # The sentences that its tables earn, each with its source.
    findings: Callable[[RunTables], Iterable[Claim]] = lambda run: ()
    # Sentences that no page leaves out for want of room.
    caveats: Callable[[RunTables], Iterable[Claim]] = lambda run: ()
    # What of a result its sections and sentences read, given all results of the run.
    tables: Callable[[Any, Sequence[Result]], Mapping[str, TableSource]] = saved_tables
    # Where such a table is, in words, if it is in no file of its name.
    files: Mapping[str, str] = field(default_factory=dict)
    # Sentences for a methods section, each by the table that what was done has made.
    done: Mapping[str, str] = field(default_factory=dict)
    curves: Curves | None = None  # its curves over the layers; None if it has none
    plans: tuple[PlannableAnalysis, ...] = ()  # what of it can be planned
    extras: tuple[Extra, ...] = ()  # what a profile makes of it if asked
