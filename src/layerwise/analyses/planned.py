"""What an analysis hands in so that a plan can say what it costs before it is run.

Each has its own in ``api.py``; which there are is listed in ``planning.analyses``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, Protocol, runtime_checkable

from layerwise.models.kinds import Model
from layerwise.presentation.power import PlannedPower
from layerwise.runs.setup import Enough, Setup
from layerwise.sweep.cost import Cost
from layerwise.tasks import PROTOCOLS, Task


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


@dataclass(frozen=True)
class PlanOptions:
    """The options of a plan that not all analyses have.

    Attributes:
        kind: of the ablation.
        site: of the ablation or transplant.
        layers: of the ablation, transplant or training, as they are named; all if None.
        draws: of the ablation's noise or donors, for each item.
        fewshot_seeds: draws of the few-shot examples that an ablation asks with.
        pairs: pairs of prompts a task.
        exhaustive: skip layers also where there is no signal.
        also: what a profile does beyond its main analyses.
        student: the student of a distillation, or its name.
        original: where the original of a model that is healed is by now.
        text: a file that a student is trained on.
        on_policy: share of texts that a student writes itself.
        rank: of low-rank adapters.
        n_texts: at most so many texts to train on.
        batch: texts a step of a training.
        steps: steps of a training.
        backend: what runs models that are named.
    """

    kind: str = "skip"
    site: str | None = None
    layers: tuple[int | str, ...] | None = None
    pairs: int = 16
    exhaustive: bool = False
    also: tuple[str, ...] = ()
    draws: int = 1
    fewshot_seeds: int = 1
    student: str | os.PathLike[str] | Model | None = None
    original: str | Path | None = None
    text: str | Path | None = None
    on_policy: float = 0.0
    rank: int | None = None
    n_texts: int = 512
    batch: int = 8
    steps: int = 200
    backend: str = "auto"

    def given(self) -> list[str]:
        """Names of the options that are not as they are by default."""
        return [one.name for one in fields(self) if getattr(self, one.name) != one.default]


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
        """About how long it takes, from some steps of models that are ``loaded`` of outlines."""
        ...

    @property
    def models(self) -> Sequence[Model]:
        """The models that it needs, or their outlines."""
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
