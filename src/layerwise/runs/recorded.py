"""Pieces that are kept as records and what they took, each under the piece's name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

import pandas as pd

from layerwise.sweep.cost import Cost
from layerwise.tasks import Task

from .checkpoints import CheckpointStore
from .executors import Work
from .records import planned


@runtime_checkable
class RecordedPiece(Protocol):
    """A piece of an analysis, of one task or a part of it."""

    @property
    def name(self) -> str:
        """Unique within a run."""
        ...

    @property
    def task(self) -> Task:
        """Its task."""
        ...


OfOneKind = TypeVar("OfOneKind", bound=RecordedPiece)


def unrecorded(parts: CheckpointStore, pieces: Sequence[OfOneKind]) -> list[OfOneKind]:
    """The pieces that are not there yet."""
    return [piece for piece in pieces if not parts.has_part(*_names(piece))]


def works_of(
    doing: Callable[[OfOneKind], str], pieces: Sequence[OfOneKind], costs: Sequence[Cost]
) -> list[Work]:
    """Pieces as an executor takes them; each is made with itself and its cost."""
    return [
        Work(_names(piece), doing(piece), cost.amount, (piece, cost))
        for piece, cost in zip(pieces, costs, strict=True)
    ]


def parts_of(
    piece: RecordedPiece, records: pd.DataFrame, work: dict[str, Any], cost: Cost
) -> dict[str, pd.DataFrame]:
    """What is kept of a piece, by name."""
    entry = pd.DataFrame([work | planned(cost)])
    return dict(zip(_names(piece), (entry, records), strict=True))


def joined_work(pieces: Sequence[pd.DataFrame]) -> list[dict[str, Any]]:
    """One entry per task, its pieces added up; none where nothing was made."""
    if not pieces:
        return []
    whole: Any = pd.concat(pieces, ignore_index=True)
    return whole.groupby(["analysis", "task"], sort=False, as_index=False).sum().to_dict("records")


def _names(piece: RecordedPiece) -> tuple[str, str]:
    return f"work {piece.name}", f"records {piece.name}"
