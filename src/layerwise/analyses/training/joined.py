"""Where a series of checkpoints is saved, and what is needed to repeat it."""

from __future__ import annotations

import pandas as pd
from pydantic import Field

from layerwise.analyses.comparison.runs import RunFacts
from layerwise.storage.joined_folder import JoinedFolder
from layerwise.storage.places import SERIES_PAGE
from layerwise.storage.provenance import Stamped


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


def n_layer_tests(accuracy: pd.DataFrame, layers: pd.DataFrame) -> int:
    """How many tests of single layers a series makes, those of tasks without signal as well."""
    return len(accuracy) * len(layers["layer"].unique())
