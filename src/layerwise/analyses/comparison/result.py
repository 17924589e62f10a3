"""A finished comparison: its tables, what is needed to repeat it, and its page.

How runs are compared is in ``api``; figures and claims, in ``report``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from layerwise.errors import counted

from .compared import ComparedRuns

if TYPE_CHECKING:
    from layerwise.presentation.claim import Claim
    from layerwise.presentation.page import Report


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

    def __repr__(self) -> str:
        n_established = sum(self.differences["significant"])
        return (
            f"Comparison({', '.join(self.facts.groups or [r.name for r in self.facts.runs])}; "
            f"{n_established} of {counted(len(self.differences), 'difference')} established)"
        )
