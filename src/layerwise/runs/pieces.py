"""Analyses whose pieces are a task under a protocol: the missing ones made, with progress."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar, runtime_checkable

import pandas as pd

from layerwise.sweep.plans.cost import Cost
from layerwise.tasks import Task

from .checkpoints import CheckpointStore, concat_parts, table_rows
from .executors import Executor, WorkUnit, make_missing
from .progress import Meter
from .records import planned_work, with_clusters

Piece = tuple[Task, str]
Made = tuple[dict[str, Any], dict[str, pd.DataFrame]]
Recorded = tuple[pd.DataFrame, dict[str, Any]]


def run_resumable(
    executor: Executor,
    parts: CheckpointStore,
    progress: Meter,
    doing: str,
    pieces: Sequence[Piece],
    kinds: Sequence[str],
    expected: Callable[[Task, str], Cost],
    make: Callable[[Task, str], Made],
) -> tuple[list[dict[str, Any]], list[pd.DataFrame]]:
    """Make the pieces that are missing, and join all of them."""
    entries = f"{kinds[0]} work"
    works = []
    for task, protocol in pieces:
        cost, name = expected(task, protocol), f"{task.name} {protocol}"
        names = tuple(f"{kind} {name}" for kind in (entries, *reversed(kinds)))
        arguments = (task, protocol, name, cost)
        works.append(WorkUnit(names, f"{doing}: {task.name}", cost.amount, arguments))
    make_missing(executor, parts, progress, works, partial(_tables, make, kinds))
    of_pieces = [f"{task.name} {protocol}" for task, protocol in pieces]
    work = concat_parts(parts, [f"{entries} {name}" for name in of_pieces]).to_dict("records")
    tables = [table_rows(parts, kind, [f"{kind} {name}" for name in of_pieces]) for kind in kinds]
    tasks = [task for task, _ in pieces]
    tables = [with_clusters(table, tasks) if "item" in table else table for table in tables]
    return [{str(key): value for key, value in entry.items()} for entry in work], tables


def _tables(
    make: Callable[[Task, str], Made],
    kinds: Sequence[str],
    task: Task,
    protocol: str,
    name: str,
    cost: Cost,
) -> dict[str, pd.DataFrame]:
    """The parts of a piece, by their names."""
    entry, tables = make(task, protocol)
    work = pd.DataFrame([entry | planned_work(cost)])
    return {f"{kinds[0]} work {name}": work, **{f"{kind} {name}": tables[kind] for kind in kinds}}


@runtime_checkable
class RecordedPiece(Protocol):
    """A piece of an analysis, of one task or a part of it."""

    @property
    def name(self) -> str:
        """Unique within a run."""
        ...


OfOneKind = TypeVar("OfOneKind", bound=RecordedPiece)


def missing_pieces(parts: CheckpointStore, pieces: Sequence[OfOneKind]) -> list[OfOneKind]:
    """The pieces that are not there yet."""
    return [piece for piece in pieces if not parts.has_part(*_names(piece))]


def make_pieces(
    executor: Executor,
    parts: CheckpointStore,
    progress: Meter,
    pieces: Sequence[OfOneKind],
    doing: Callable[[OfOneKind], str],
    cost: Callable[[OfOneKind], Cost],
    measure: Callable[[OfOneKind], Recorded],
) -> None:
    """Make the pieces that are missing, each with its records and its entry of ``run.json``."""
    works = []
    for piece in missing_pieces(parts, pieces):
        expected = cost(piece)
        works.append(WorkUnit(_names(piece), doing(piece), expected.amount, (piece, expected)))
    make_missing(executor, parts, progress, works, partial(_measure_piece, measure))


def _measure_piece(
    measure: Callable[[OfOneKind], Recorded], piece: OfOneKind, cost: Cost
) -> dict[str, pd.DataFrame]:
    records, work = measure(piece)
    entry = pd.DataFrame([work | planned_work(cost)])
    return dict(zip(_names(piece), (entry, records), strict=True))


def joined_work(pieces: Sequence[pd.DataFrame]) -> list[dict[str, Any]]:
    """One entry per task, its pieces added up; none where nothing was made."""
    if not pieces:
        return []
    whole: Any = pd.concat(pieces, ignore_index=True)
    return whole.groupby(["analysis", "task"], sort=False, as_index=False).sum().to_dict("records")


def _names(piece: RecordedPiece) -> tuple[str, str]:
    return f"work {piece.name}", f"records {piece.name}"
