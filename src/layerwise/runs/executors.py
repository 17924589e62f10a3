"""Makers of a run's pieces: this process one after the other, or workers elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import pandas as pd

from layerwise.models.instance.kinds import Model

from .checkpoints import CheckpointStore, Machine, note_machine
from .progress import Meter, telling_of_piece

Tables = Mapping[str, pd.DataFrame]
"""The parts of a piece by their names."""


@dataclass(frozen=True)
class WorkUnit:
    """A work unit of a run, made and kept as a whole."""

    # The parts that it consists of, in the order in which they are kept: the last one says that
    # the piece is there.
    names: tuple[str, ...]
    doing: str  # what is being done, for whoever waits
    amount: float  # how much work it is, as ``Cost.amount`` has it
    arguments: tuple[Any, ...]  # those that it is made with
    # Whether its making reports progress itself, as far as it is made in this process.
    reports: bool = False


Make = Callable[..., Tables]
Keep = Callable[[WorkUnit, Tables, Machine | None], None]


class Executor:
    """Makes pieces and hands each back when it is made; this one in this process, in turn."""

    @property
    def beside(self) -> int:
        """Number of processes that share the memory of this machine."""
        return 1

    def admit(self, model: Model) -> None:
        """Refuse a model that pieces cannot be made with."""

    def make(self, works: Sequence[WorkUnit], make: Make, keep: Keep, progress: Meter) -> None:
        """Make pieces; what fails is raised as it is."""
        for work in works:
            progress.set_activity(work.doing)
            telling = nullcontext() if work.reports else telling_of_piece(progress, work.amount)
            with telling:
                keep(work, make(*work.arguments), None)


LOCAL = Executor()


def make_missing(
    executor: Executor,
    parts: CheckpointStore,
    progress: Meter,
    works: Sequence[WorkUnit],
    make: Make,
) -> None:
    """Make the pieces that are not there yet, and keep each when it is made."""

    def keep(work: WorkUnit, tables: Tables, machine: Machine | None) -> None:
        note_machine(parts, work.names[-1], machine)
        made_under = () if machine is None else (machine.environment,)
        for name in work.names:
            parts.write_part(name, tables[name], *made_under)

    progress.expect(sum((work.amount for work in works), start=0.0))
    missing = []
    for work in works:
        if parts.has_part(*work.names):
            progress.set_activity(work.doing)
            progress.add_work(work.amount)
        else:
            missing.append(work)
    if missing:
        executor.make(missing, make, keep, progress)
