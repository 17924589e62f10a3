"""Planned interactions: an ablation of sets of layers, its records as the table of these sets."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from layerwise.analyses.ablation.job import Ablation
from layerwise.runs.checkpoints import CheckpointStore
from layerwise.runs.progress import Meter
from layerwise.runs.setup import Setup
from layerwise.stats.effects import CONTROLS
from layerwise.storage.parquet import conform, frame
from layerwise.sweep.plans.cost import Cost
from layerwise.tasks import Task

from .costs import Players
from .result import InteractionsResult
from .spec import SetsSpec


@dataclass(frozen=True)
class Interactions:
    """Planned interactions; the pieces are those of an ablation."""

    setup: Setup
    spec: SetsSpec  # what is removed
    method: str = "engine"  # ``engine`` or ``reference``

    def __post_init__(self) -> None:
        _ = self.ablation  # which refuses bad input before any work is done

    @cached_property
    def ablation(self) -> Ablation:
        """The ablation that measures the sets, where the intact model has signal."""
        return Ablation(
            self.setup, (self.spec,), self.method, only_with_signal=True, analysis="interactions"
        )

    def settings(self) -> dict[str, Any]:
        """What makes it this run and no other."""
        return self.ablation.settings()

    def run(
        self, parts: CheckpointStore, settings: dict[str, Any], progress: Meter
    ) -> InteractionsResult:
        """Make the pieces that are missing, and join all of them."""
        measured = self.ablation.run(parts, settings, progress)
        return InteractionsResult(
            self._with_players(measured.records), self._orders(), measured.facts
        )

    def _with_players(self, records: pd.DataFrame) -> pd.DataFrame:
        """Ablation records with the layers and heads of each set, as ``interactions.parquet``."""
        changes = self.spec.like(self.setup.model)
        removed: dict[str, Players] = {"intact": ()} | {
            change.id: players for change, players in zip(changes, self.spec.sets, strict=True)
        }
        by_head = self.spec.heads is not None
        of_row = [
            removed[name] if kind not in CONTROLS else ()
            for name, kind in zip(records["intervention"], records["kind"], strict=True)
        ]
        table = records.assign(
            site=self.spec.site,
            layers=[[player.layer for player in players] for players in of_row],
            heads=[[player.head for player in players] if by_head else None for players in of_row],
        )
        return conform("interactions", table)

    def _orders(self) -> pd.DataFrame:
        rows = [
            {"permutation": number, "place": place, "layer": player.layer, "head": player.head}
            for number, order in enumerate(self.spec.orders)
            for place, player in enumerate(order)
        ]
        return frame("interaction_orders", rows)

    def expected(self, task: Task, *protocols: str) -> Cost:
        """What a task is expected to cost under some protocols, at most: with signal in all."""
        return self.ablation.expected(task, *protocols)

    def write_requests(self, folder: Path) -> None:
        """Write exactly what was put to the model, one line per request."""
        self.ablation.write_requests(folder)
