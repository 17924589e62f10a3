"""The typed result of a distillation, and the compact table that it shows in a notebook."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd

from layerwise.presentation.columns import in_short
from layerwise.presentation.drawing import drawn
from layerwise.storage.base import Result, computed_once
from layerwise.storage.provenance import Facts

from .columns import GAINS
from .tables import gains_table


@dataclass(frozen=True, repr=False, eq=False)
class DistillationResult(Result):
    """A distilled student: its training, and its accuracy beside teacher and original student.

    Attributes:
        distillation: ``distillation.parquet``: every item's answer by teacher, student and
            distilled student.
        distillation_curve: ``distillation_curve.parquet``: the course of the training.
        facts: what is needed to repeat the run; the model is the student.
    """

    tables: ClassVar[tuple[str, ...]] = ("distillation", "distillation_curve")
    title: ClassVar[str] = "Distillation: what the student can do, before and after"
    if_empty: ClassVar[str] = "No item was asked."

    distillation: pd.DataFrame
    distillation_curve: pd.DataFrame
    facts: Facts

    @computed_once
    def gains(self) -> pd.DataFrame:
        """``distillation_gains.parquet``: what is gained and lost, by task and protocol."""
        return gains_table(self.distillation, self.facts.chance, self.facts.seed)

    def derived(self) -> dict[str, pd.DataFrame]:
        """``distillation_gains``."""
        return {"distillation_gains": self.gains()}

    def plot(self) -> Any:
        """Divergence from the teacher while the student was trained."""
        from .figures import training_curve

        return drawn(self, training_curve, self.distillation_curve)

    def summary_rows(self) -> pd.DataFrame:
        """What is gained and lost, by task and protocol."""
        return in_short(self, GAINS, self.gains())
