"""A finished series: its tables, what is needed to repeat it, its sentences, figures and page.

What the tables hold is computed in ``tables``; figures and claims, in ``report``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerwise.errors import counted
from layerwise.storage.joined_folder import JoinedFolder
from layerwise.storage.places import FIGURES, SERIES_PAGE

from .joined import NAMES, JoinedCheckpoints, SeriesFacts

if TYPE_CHECKING:
    from layerwise.presentation.claim import Claim
    from layerwise.presentation.page import Report

FOLDER = JoinedFolder(
    "training", NAMES, SeriesFacts, SERIES_PAGE, "a folder for the series",
    ("layerwise profile-training",
     "give the same command again, which goes on from the runs of the checkpoints"),
)  # fmt: skip


class TrainingSeries(JoinedCheckpoints):
    """Onsets of capabilities in training, and their layers; tables: ``JoinedCheckpoints``'."""

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

    def save(self, folder: str | Path) -> Path:
        """Write the tables, ``training.json``, ``training.html`` and ``figures/``.

        Args:
            folder: made if it does not exist; those of an earlier series are replaced.

        Returns:
            The path of the page.

        Raises:
            UserError: if the folder cannot be written, or the disk is full.
        """
        folder = Path(folder)
        FOLDER.write(folder, {name: getattr(self, name) for name in self.tables}, self.facts)
        page = self.report()
        page.save_figures(folder / FIGURES)
        return page.save(folder / SERIES_PAGE)

    @classmethod
    def load(cls, folder: str | Path) -> TrainingSeries:
        """Read a series that was saved.

        Raises:
            UserError: if a file is missing, damaged, or changed since it was written.
        """
        tables, facts = FOLDER.read(Path(folder))
        return cls(**tables, facts=facts)

    def __repr__(self) -> str:
        n, steps = sum(self.onsets["appears"]), self.facts.steps
        rows = counted(len(self.onsets), "task and protocol", "tasks and protocols")
        return (
            f"TrainingSeries({counted(len(steps), 'checkpoint')}, steps {steps[0]} to "
            f"{steps[-1]}; {n} of {rows} there to stay)"
        )

    def _repr_html_(self) -> str:
        return self.report()._repr_html_()
