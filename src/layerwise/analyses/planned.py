"""What an analysis hands in so that a plan can say what it costs before it is run.

Each has its own in ``planned.py``; which there are is listed in ``planning.analyses``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import NamedTuple, Protocol, runtime_checkable

from layerwise.runs.setup import Setup
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
        site: of the ablation.
        layers: of the ablation, as they are named; all if None.
        draws: of the ablation's noise or donors, for each item.
        fewshot_seeds: draws of the few-shot examples that an ablation asks with.
        pairs: pairs of prompts a task.
        exhaustive: skip layers also where there is no signal.
        also: what a profile does beyond its main analyses.
    """

    kind: str = "skip"
    site: str | None = None
    layers: tuple[int | str, ...] | None = None
    pairs: int = 16
    exhaustive: bool = False
    also: tuple[str, ...] = ()
    draws: int = 1
    fewshot_seeds: int = 1

    def given(self) -> list[str]:
        """Names of the options that are not as they are by default."""
        return [one.name for one in fields(self) if getattr(self, one.name) != one.default]


class PlannedJobs(NamedTuple):
    """The jobs of an analysis by the names of their rows, and what one should know of them."""

    by_name: Mapping[str, PlannedJob]
    notes: tuple[str, ...] = ()


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
    """

    name: str
    jobs: Callable[[Setup, PlanOptions], PlannedJobs]
    protocols: tuple[str, ...] = PROTOCOLS
    paired: bool = False
    options: tuple[str, ...] = ()
