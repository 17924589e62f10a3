"""The typed result of a series of checkpoints: its tables, and what is needed to repeat it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import pandas as pd
from pydantic import Field

from layerwise.analyses.comparison.runs import RunFacts
from layerwise.errors import counted
from layerwise.storage.joined_folder import JoinedFolder, JoinedRuns
from layerwise.storage.places import SERIES_PAGE
from layerwise.storage.provenance import Stamped

if TYPE_CHECKING:
    from layerwise.presentation.claim import Claim
    from layerwise.presentation.page import Report


class SeriesFacts(Stamped):
    """Everything needed to repeat the joining of a series."""

    seed: int = Field(description="The seed of the bootstraps over items.")
    smallest_gain: float = Field(
        description="Accuracy above the floor from which on a capability is there."
    )
    smallest_loss: float = Field(description="Smallest loss of accuracy that is of interest.")
    smallest_depth: float = Field(description="Smallest move that is of interest, in layers.")
    steps: tuple[int, ...] = Field(description="The checkpoints' steps, in order.")
    runs: tuple[RunFacts, ...] = Field(description="The runs of the checkpoints, in this order.")
    files: dict[str, str] = Field(
        default={},
        description="In training.json: SHA-256 of each table by name, and under its own name "
        "that of all else that it says.",
    )


FOLDER = JoinedFolder(
    "training", SeriesFacts, SERIES_PAGE, "a folder for the series",
    ("layerwise profile-training",
     "give the same command again, which goes on from the runs of the checkpoints"),
)  # fmt: skip


@dataclass(frozen=True, eq=False, repr=False)
class TrainingSeries(JoinedRuns):
    """Onsets of capabilities in training, their layers, and whether their place moves.

    Attributes:
        accuracy: ``training_accuracy.parquet``: the intact model at each step, with its controls.
        layers: ``training_layers.parquet``: what each layer costs at each step.
        depths: ``training_depths.parquet``: depths of capabilities at each step.
        onsets: ``training_onsets.parquet``: when each task is there to stay, and by which layers.
        moves: ``training_moves.parquet``: whether what is needed comes to lie deeper.
        facts: what is needed to repeat it.
    """

    home: ClassVar[JoinedFolder[Any]] = FOLDER
    tables: ClassVar[tuple[str, ...]] = FOLDER.tables

    accuracy: pd.DataFrame
    layers: pd.DataFrame
    depths: pd.DataFrame
    onsets: pd.DataFrame
    moves: pd.DataFrame
    facts: SeriesFacts = field(repr=False)

    def report(self) -> Report:
        """The page with figures, sentences and tables."""
        from .report import series_report

        return series_report(self)

    def findings(self) -> list[Claim]:
        """The sentences that the tables earn, the most important first."""
        from .report import sentences

        return sentences(self)

    def plot(self, protocol: str | None = None) -> Any:
        """Accuracy over steps with onsets, above what each layer costs at each step.

        Args:
            protocol: which; the first of the series if None.

        Returns:
            A matplotlib figure.
        """
        from .report import figure_of

        return figure_of(self, protocol)

    def __repr__(self) -> str:
        n, steps = sum(self.onsets["appears"]), self.facts.steps
        rows = counted(len(self.onsets), "task and protocol", "tasks and protocols")
        return (
            f"TrainingSeries({counted(len(steps), 'checkpoint')}, steps {steps[0]} to "
            f"{steps[-1]}; {n} of {rows} there to stay)"
        )


def n_layer_tests(accuracy: pd.DataFrame, layers: pd.DataFrame) -> int:
    """How many tests of single layers a series makes, those of tasks without signal as well."""
    return len(accuracy) * len(layers["layer"].unique())
