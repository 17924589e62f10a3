"""A piece of a removal that others than this process make: each task by itself, then joined.

Its tasks share nothing but the intact walk through short prompts, so that little is done twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pandas as pd

from layerwise.runs.checkpoints import CheckpointStore, MemoryCheckpoints, rows_of
from layerwise.runs.executors import Executor, Work, make_missing
from layerwise.runs.machines import Machine, machines_of, note_machine
from layerwise.runs.progress import Meter
from layerwise.runs.recorded import joined_work
from layerwise.tasks import Task

Measure = Callable[[Sequence[Task]], tuple[pd.DataFrame, dict[str, Any]]]


def measured_by_task(
    executor: Executor,
    parts: CheckpointStore,
    progress: Meter,
    name: str,
    tasks: Sequence[Task],
    measure: Measure,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The table and the work of a piece, its tasks measured apart."""
    apart = MemoryCheckpoints()
    largest_first = sorted(tasks, key=lambda task: -len(task.items))
    works = [
        Work(_names(name, task), f"removing layers: {task.name}", 0.0, (task,))
        for task in largest_first
    ]
    make_missing(executor, apart, progress, works, partial(_tables, measure, name))
    for machine in machines_of(apart):
        for piece in machine["pieces"]:
            made_under = machine.get("environment", {})
            note_machine(parts, piece, Machine(machine["machine"], machine["device"], made_under))
    table = rows_of(apart, "removal", [_names(name, task)[1] for task in tasks])
    work: Any = [apart.read_part(_names(name, task)[0]) for task in tasks]
    same = {key: work[0][key].iloc[0] for key in ("analysis", "items")}
    (whole,) = joined_work([one.drop(columns="items").assign(task="") for one in work])
    return table, {**whole, **same, "task": ", ".join(task.name for task in tasks)}


def _names(name: str, task: Task) -> tuple[str, str]:
    return f"removal work {name}, {task.name}", f"removal {name}, {task.name}"


def _tables(measure: Measure, name: str, task: Task) -> dict[str, pd.DataFrame]:
    table, work = measure([task])
    return dict(zip(_names(name, task), (pd.DataFrame([work]), table), strict=True))
