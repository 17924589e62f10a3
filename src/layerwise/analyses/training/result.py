"""A finished series: its tables, what is needed to repeat it, its sentences, figures and page.

What the tables hold is computed in ``tables``; figures and claims, in ``report``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from layerwise.errors import counted

from .joined import JoinedCheckpoints

if TYPE_CHECKING:
    from layerwise.presentation.claim import Claim
    from layerwise.presentation.page import Report


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

    def __repr__(self) -> str:
        n, steps = sum(self.onsets["appears"]), self.facts.steps
        rows = counted(len(self.onsets), "task and protocol", "tasks and protocols")
        return (
            f"TrainingSeries({counted(len(steps), 'checkpoint')}, steps {steps[0]} to "
            f"{steps[-1]}; {n} of {rows} there to stay)"
        )
