"""A finished series: its tables, what is needed to repeat it, its sentences, figures and page.

What the tables hold is computed in ``tables``; how it is drawn and told, in ``report``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerwise.errors import DamagedResultsError, counted
from layerwise.storage.atomic_files import disk_error, remove_temporaries, write_atomically
from layerwise.storage.file_list import hashes_of, listed, refuse_edited, with_list
from layerwise.storage.parquet import read_table, write_table
from layerwise.storage.places import (
    FIGURES,
    SERIES_PAGE,
    refuse_unusable_folder,
    refuse_unusable_page,
)

from .joined import NAMES, JoinedCheckpoints, SeriesFacts

if TYPE_CHECKING:
    from layerwise.presentation.finding import Finding
    from layerwise.presentation.page import Report

SERIES_FILE = "training.json"
SERIES_TABLES = tuple(f"training_{name}.parquet" for name in NAMES)


class TrainingSeries(JoinedCheckpoints):
    """When each capability appears in training, by which layers; tables: ``JoinedCheckpoints``'."""

    def report(self) -> Report:
        """The page with figures, sentences and tables."""
        from .report import series_report

        return series_report(self)

    def findings(self) -> list[Finding]:
        """The sentences that the tables earn, the most important first."""
        from .report import sentences

        return sentences(self)

    def plot(self, protocol: str | None = None) -> Any:
        """Accuracy over steps with onsets, above what each layer costs at each step.

        Args:
            protocol: which; the first that was asked if None.

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
        refuse_unusable_folder(folder, "a folder for the series")
        refuse_unusable_page(folder / SERIES_PAGE)
        said = self.facts.model_dump_json(exclude={"files"})
        remove_temporaries(folder)
        _remove(folder / SERIES_FILE)  # tables of two series never stand under one list
        for name in self.tables:
            table = f"training_{name}"
            write_table(folder / f"{table}.parquet", table, getattr(self, name), said)
        files = hashes_of(folder, SERIES_TABLES)
        write_atomically(folder / SERIES_FILE, with_list(json.loads(said), SERIES_FILE, files))
        page = self.report()
        page.save_figures(folder / FIGURES)
        return page.save(folder / SERIES_PAGE)

    @classmethod
    def load(cls, folder: str | Path) -> TrainingSeries:
        """Read a series that was saved.

        Raises:
            UserError: if a file is missing, damaged, or changed since it was written.
        """
        folder = Path(folder)
        said = read_series_file(folder)
        files = listed(said, SERIES_FILE) or {}
        facts = SeriesFacts.model_validate_json(json.dumps(said))
        read = {}
        for name, file in zip(cls.tables, SERIES_TABLES, strict=True):
            read[name], _ = read_table(folder / file, f"training_{name}", files.get(file))
        return cls(**read, facts=facts.model_copy(update={"files": {}}))

    def __repr__(self) -> str:
        n, steps = sum(self.onsets["appears"]), self.facts.steps
        asked = counted(len(self.onsets), "task and protocol", "tasks and protocols")
        return (
            f"TrainingSeries({counted(len(steps), 'checkpoint')}, steps {steps[0]} to "
            f"{steps[-1]}; {n} of {asked} there to stay)"
        )

    def _repr_html_(self) -> str:
        return self.report()._repr_html_()


def read_series_file(folder: Path) -> dict[str, Any]:
    """``training.json`` as plain values.

    Raises:
        UserError: if it is missing or damaged, or was edited.
    """
    path = folder / SERIES_FILE
    try:
        said = json.loads(path.read_bytes())
        SeriesFacts.model_validate_json(json.dumps(said))
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedResultsError(
            f"{path} is missing or damaged: expected what `layerwise profile-training` wrote; "
            "give the same command again, which goes on from the runs of the checkpoints."
        ) from error
    refuse_edited(said, path)
    return said


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise disk_error(error, path) from error
