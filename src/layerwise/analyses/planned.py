"""What an analysis hands in to a profile that asks for it, and to a plan of what it costs.

Each has its own in ``api.py``; which there are is listed in ``profiling.extras`` and
``planning.analyses``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, runtime_checkable

from layerwise.models.instance.kinds import Model
from layerwise.presentation.power import PlannedPower
from layerwise.runs.options import PlanOptions as PlanOptions
from layerwise.runs.setup import Enough, Setup
from layerwise.storage.base import Result
from layerwise.sweep.plans.cost import Cost
from layerwise.tasks import PROTOCOLS, Task

from .execute import Job


@runtime_checkable
class PlannedJob(Protocol):
    """A job that knows what it costs."""

    @property
    def setup(self) -> Setup:
        """What it starts from: the tasks and protocols that its cost is told of."""
        ...

    def expected(self, task: Task, /, *protocols: str) -> Cost:
        """What a task is expected to cost under some protocols, asked together."""
        ...


class PlannedTraining(Protocol):
    """Work that is no sweep: steps of a training."""

    @property
    def words(self) -> tuple[str, str]:
        """What a plan's row says in place of task and protocol."""
        ...

    def cost(self) -> Cost:
        """What all of it costs."""
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
class Planned:
    """An analysis that can be planned.

    Attributes:
        name: by which its plan is asked for.
        jobs: its jobs, of a setup and the options of the plan.
        protocols: those it takes if none are named.
        paired: whether it asks pairs of prompts: by default of the tasks that offer them, and
            under its protocols alone.
        options: names of ``PlanOptions`` that its plan alone has.
        enough: how many items it asks where no limit is given; None for all.
    """

    name: str
    jobs: Callable[[Setup, PlanOptions], PlannedJobs]
    protocols: tuple[str, ...] = PROTOCOLS
    paired: bool = False
    options: tuple[str, ...] = ()
    enough: Enough | None = None


@dataclass(frozen=True)
class ProfileStart:
    """What a profile has when its main analyses are made.

    Attributes:
        able: a setup with the tasks that the model can do; none may be left.
        reading: the same with protocols that have a prompt to read.
        pairs: pairs of prompts a task.
    """

    able: Setup
    reading: Setup
    pairs: int


def no_jobs(start: ProfileStart) -> list[Job[Result]]:
    """The jobs of what is part of a profile's main analyses."""
    return []


def any_model(cfg: Any) -> None:
    """Refuse no model."""


@dataclass(frozen=True)
class Extra:
    """What a profile can do beyond its main analyses.

    Attributes:
        name: by which it is asked for.
        words: what it does.
        jobs: its jobs; none if the main analyses change or patch more by it.
        asks_tasks: whether it is made only where a task is left that the model can do.
        planned: whether a plan can say what it costs: its jobs know (``PlannedJob``), or it is
            part of the main analyses.
        in_all: whether ``all`` means it too.
        refuse: raises a ``UserError`` for the configuration of a model that does not allow it.
    """

    name: str
    words: str
    jobs: Callable[[ProfileStart], Iterable[Job[Result]]] = no_jobs
    asks_tasks: bool = True
    planned: bool = False
    in_all: bool = True
    refuse: Callable[[Any], None] = any_model
