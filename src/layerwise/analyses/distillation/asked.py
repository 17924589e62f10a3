"""What teacher, student and distilled student answer to the same items, with their controls."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from layerwise.runs.controls import (
    as_controls,
    asked_blind,
    blind_rows,
    guessed_rows,
    without_layers,
)
from layerwise.runs.recorded import joined_work
from layerwise.runs.records import record_rows, work_entry
from layerwise.runs.setup import Setup
from layerwise.storage.parquet import frame
from layerwise.storage.schemas import SCHEMAS
from layerwise.sweep import intact
from layerwise.tasks import Task


def records_of(
    setup: Setup, host: str, task: Task, guessed_by: Setup
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A model's answers to a task's items under all protocols, and what that cost.

    Beside them: other items' questions, the model without any layer, and the guesser that reads
    no question, which tell whether the model can do the task at all.
    """
    asked = [
        one
        for item in task.items
        for protocol in setup.protocols
        for one in setup.requests(task, item, protocol)
    ]
    alone = [intact(), without_layers(setup.model)]
    swept = setup.sweep(alone, [one.request for one in asked])
    rows = list(as_controls(record_rows(task, task.items, asked, alone, swept)))
    stats = [swept.stats]
    blind = asked_blind(setup, task, task.items, setup.protocols)
    if blind:
        swept = setup.sweep([intact()], [one.request for item in blind for one in item.requests])
        rows += blind_rows(task, blind, swept)
        stats.append(swept.stats)
    rows += guessed_rows(guessed_by, task, task.items, setup.protocols)
    work = pd.DataFrame([work_entry("distillation", task.name, one) for one in stats])
    return frame("distillation", list(_kept(rows, host))), pd.DataFrame(joined_work([work]))


def _kept(rows: list[dict[str, Any]], host: str) -> Iterator[dict[str, Any]]:
    names = [name for name in SCHEMAS["distillation"].names if name != "host"]
    for row in rows:
        yield {"host": host} | {name: row.get(name) for name in names}
