"""A finished comparison: its tables, what is needed to repeat it, and its page.

How runs are compared is in ``api``; figures and claims, in ``report``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from layerwise.errors import counted
from layerwise.storage.joined_folder import JoinedFolder
from layerwise.storage.places import COMPARISON_PAGE, FIGURES

from .compared import ComparedRuns, ComparisonFacts

if TYPE_CHECKING:
    from layerwise.presentation.claim import Claim
    from layerwise.presentation.page import Report

FOLDER = JoinedFolder(
    "comparison", ComparedRuns.tables, ComparisonFacts, COMPARISON_PAGE,
    "a folder for the comparison", ("layerwise compare", "compare the runs again"),
)  # fmt: skip


class Comparison(ComparedRuns):
    """Differences between runs, with intervals and tests; its tables are ``ComparedRuns``'."""

    def report(self) -> Report:
        """The page with figures, sentences and tables."""
        from .report import comparison_report

        return comparison_report(self)

    def established(self) -> list[Claim]:
        """The sentences that a test supports, the largest difference first."""
        from .report import sure_claims

        return sure_claims(self)

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
        FOLDER.write(folder, {name: getattr(self, name) for name in self.tables}, self.facts)
        page = self.report()
        page.save_figures(folder / FIGURES)
        return page.save(folder / COMPARISON_PAGE)

    @classmethod
    def load(cls, folder: str | Path) -> Comparison:
        """Read a comparison that was saved.

        Raises:
            UserError: if a file is missing, damaged, or changed since it was written.
        """
        tables, facts = FOLDER.read(Path(folder))
        return cls(**tables, facts=facts)

    def __repr__(self) -> str:
        n_established = sum(self.differences["significant"])
        return (
            f"Comparison({', '.join(self.facts.groups or [r.name for r in self.facts.runs])}; "
            f"{n_established} of {counted(len(self.differences), 'difference')} established)"
        )

    def _repr_html_(self) -> str:
        return self.report()._repr_html_()
