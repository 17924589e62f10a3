"""Analyses whose pieces are a task under a protocol: the missing ones made, with progress.

What a piece is made of is the analyses' business; where it is kept, that of ``checkpoints``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from layerwise.sweep.cost import Cost
from layerwise.tasks import Task

from .checkpoints import CheckpointStore, rows_of, together
from .progress import Meter
from .records import planned, with_clusters

Piece = tuple[Task, str]
Made = tuple[dict[str, Any], dict[str, pd.DataFrame]]


def run_resumable(
    parts: CheckpointStore,
    progress: Meter,
    doing: str,
    pieces: Sequence[Piece],
    kinds: Sequence[str],
    expected: Callable[[Task, str], Cost],
    make: Callable[[Task, str], Made],
) -> tuple[list[dict[str, Any]], list[pd.DataFrame]]:
    """Make the pieces that are missing, and join all of them.

    Args:
        parts: where pieces are kept.
        progress: is told how far it is.
        doing: the analysis, in words.
        pieces: tasks, each with a protocol.
        kinds: names of the tables; the first one is kept last, and says that a piece is there.
        expected: what a piece is expected to cost.
        make: makes a piece: its entry of ``run.json``, and its tables by kind.

    Returns:
        The pieces' entries, and each kind's tables as one.
    """
    costs = [expected(task, protocol) for task, protocol in pieces]
    progress.expect(sum((cost.token_passes for cost in costs), start=0.0))
    names = [f"{task.name} {protocol}" for task, protocol in pieces]
    for (task, protocol), name, cost in zip(pieces, names, costs, strict=True):
        progress.doing(f"{doing}, {task.name}")
        if not parts.has_part(f"{kinds[0]} work {name}", *(f"{kind} {name}" for kind in kinds)):
            entry, tables = make(task, protocol)
            work = pd.DataFrame([entry | planned(cost)])
            parts.write_part(f"{kinds[0]} work {name}", work)
            for kind in reversed(kinds):
                parts.write_part(f"{kind} {name}", tables[kind])
        progress.done(cost.token_passes)
    work = together(parts, [f"{kinds[0]} work {name}" for name in names]).to_dict("records")
    tables = [rows_of(parts, kind, [f"{kind} {name}" for name in names]) for kind in kinds]
    tasks = [task for task, _ in pieces]
    tables = [with_clusters(table, tasks) if "item" in table else table for table in tables]
    return [{str(key): value for key, value in entry.items()} for entry in work], tables
