"""What an analysis adds to a profile if it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from layerwise.analyses.execute import Job
from layerwise.runs.setup import Setup
from layerwise.storage.base import Result


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
