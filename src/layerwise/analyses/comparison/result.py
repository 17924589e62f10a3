"""A finished comparison: its tables, what is needed to repeat it, and its page.

How runs are compared is in ``api``; how it is drawn and told, in ``report``.
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
    COMPARISON_PAGE,
    FIGURES,
    refuse_unusable_folder,
    refuse_unusable_page,
)

from .compared import ComparedRuns, ComparisonFacts

if TYPE_CHECKING:
    from layerwise.presentation.finding import Finding
    from layerwise.presentation.page import Report

FACTS_FILE = "comparison.json"
TABLES = tuple(
    f"comparison_{name}.parquet"
    for name in ("layers", "estimates", "differences", "groups", "left_out")
)


def read_comparison_file(folder: Path) -> dict[str, Any]:
    """``comparison.json`` as plain values.

    Raises:
        UserError: if it is missing or damaged, or was edited.
    """
    path = folder / FACTS_FILE
    try:
        said = json.loads(path.read_bytes())
        ComparisonFacts.model_validate_json(json.dumps(said))
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedResultsError(
            f"{path} is missing or damaged: expected what `layerwise compare` wrote; "
            "compare the runs again."
        ) from error
    refuse_edited(said, path)
    return said


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise disk_error(error, path) from error


class Comparison(ComparedRuns):
    """What differs between runs, and how sure that is; its tables are ``ComparedRuns``'."""

    def report(self) -> Report:
        """The page with figures, sentences and tables."""
        from .report import comparison_report

        return comparison_report(self)

    def established(self) -> list[Finding]:
        """The sentences that a test supports, the largest difference first."""
        from .findings import established

        return established(self.differences)

    def save(self, folder: str | Path) -> Path:
        """Write the tables, ``comparison.json``, ``comparison.html`` and ``figures/``.

        Args:
            folder: made if it does not exist; those of an earlier comparison are replaced.

        Returns:
            The path of the page.

        Raises:
            UserError: if the folder cannot be written, or the disk is full.
        """
        folder = Path(folder)
        refuse_unusable_folder(folder, "a folder for the comparison")
        refuse_unusable_page(folder / COMPARISON_PAGE)
        said = self.facts.model_dump_json(exclude={"files"})
        remove_temporaries(folder)
        _remove(folder / FACTS_FILE)  # tables of two comparisons never stand under one list
        for name in self.tables:
            table = f"comparison_{name}"
            write_table(folder / f"{table}.parquet", table, getattr(self, name), said)
        files = hashes_of(folder, TABLES)
        write_atomically(folder / FACTS_FILE, with_list(json.loads(said), FACTS_FILE, files))
        page = self.report()
        page.save_figures(folder / FIGURES)
        return page.save(folder / COMPARISON_PAGE)

    @classmethod
    def load(cls, folder: str | Path) -> Comparison:
        """Read a comparison that was saved.

        Raises:
            UserError: if a file is missing, damaged, or changed since it was written.
        """
        folder = Path(folder)
        said = read_comparison_file(folder)
        files = listed(said, FACTS_FILE) or {}
        facts = ComparisonFacts.model_validate_json(json.dumps(said)).model_copy(
            update={"files": {}}
        )
        read = {}
        for name in cls.tables:
            file = f"comparison_{name}.parquet"
            read[name], _ = read_table(folder / file, f"comparison_{name}", files.get(file))
        return cls(**read, facts=facts.model_copy(update={"files": {}}))

    def __repr__(self) -> str:
        found = sum(self.differences["significant"])
        return (
            f"Comparison({', '.join(self.facts.groups or [r.name for r in self.facts.runs])}; "
            f"{found} of {counted(len(self.differences), 'difference')} established)"
        )

    def _repr_html_(self) -> str:
        return self.report()._repr_html_()
