"""A progress bar with an estimate of the time left, over work counted in token-passes.

Drawing is rich's, and lines where there is no terminal are ``line_meter``'s; what the work is, is
the analyses' business.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from layerwise.errors import printable

from .line_meter import LineMeter, ticking


@runtime_checkable
class Meter(Protocol):
    """What an analysis tells of its progress."""

    def expect(self, amount: float) -> None:
        """There is so much more to do."""
        ...

    def doing(self, what: str) -> None:
        """What is being done now."""
        ...

    def done(self, amount: float) -> None:
        """So much more is done."""
        ...

    def note(self, sentence: str) -> None:
        """Something that whoever waits should know."""
        ...


class SilentMeter:
    """Tells nobody."""

    def expect(self, amount: float) -> None:
        """See ``Meter``."""

    def doing(self, what: str) -> None:
        """See ``Meter``."""

    def done(self, amount: float) -> None:
        """See ``Meter``."""

    def note(self, sentence: str) -> None:
        """See ``Meter``."""


@dataclass
class BarMeter:
    """Draws a bar on the standard error stream."""

    progress: Progress
    total: float = 0.0

    def __post_init__(self) -> None:
        self.bar = self.progress.add_task("starting", total=None)

    def expect(self, amount: float) -> None:
        """See ``Meter``."""
        self.total += amount
        self.progress.update(self.bar, total=self.total)

    def doing(self, what: str) -> None:
        """See ``Meter``."""
        self.progress.update(self.bar, description=printable(what))

    def done(self, amount: float) -> None:
        """See ``Meter``."""
        self.progress.advance(self.bar, amount)

    def note(self, sentence: str) -> None:
        """See ``Meter``."""
        self.progress.console.print(f"layerwise: {printable(sentence)}", markup=False)


@contextlib.contextmanager
def meter(show: bool) -> Iterator[Meter]:
    """A meter for as long as a job: a bar on a terminal, else lines; silent unless ``show``."""
    # In a notebook rich would want ipywidgets; plain text works everywhere.
    console = Console(stderr=True, force_jupyter=False)
    if not show:
        yield SilentMeter()
        return
    if not console.is_terminal:
        with ticking(LineMeter()) as lines:
            yield lines
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, speed_estimate_period=120) as progress:
        yield BarMeter(progress)
