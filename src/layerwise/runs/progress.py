"""A progress bar with an estimate of the time left, over work counted in operations.

Drawing is rich's, and lines where there is no terminal are ``line_meter``'s; what the work is, is
the analyses' business.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.text import Text

from layerwise.errors import printable

from .line_meter import LineMeter, Tally, ticking


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
    tally: Tally

    def __post_init__(self) -> None:
        self.bar = self.progress.add_task("starting", total=None)

    def expect(self, amount: float) -> None:
        """See ``Meter``."""
        self.tally.expect(amount)
        self.progress.update(self.bar, total=1.0, completed=self.tally.share)

    def doing(self, what: str) -> None:
        """See ``Meter``."""
        self.progress.update(self.bar, description=printable(what))

    def done(self, amount: float) -> None:
        """See ``Meter``."""
        self.tally.done(amount)
        self.progress.update(self.bar, completed=self.tally.share)

    def note(self, sentence: str) -> None:
        """See ``Meter``."""
        self.progress.console.print(f"layerwise: {printable(sentence)}", markup=False)


class _Left(ProgressColumn):
    """The time that is left by a tally."""

    def __init__(self, tally: Tally) -> None:
        super().__init__()
        self.tally = tally

    def render(self, task: Task) -> Text:
        from .records import seconds_in_words

        left = self.tally.left
        return Text("" if left is None else f"{seconds_in_words(left)} left")


@dataclass
class Part:
    """Tells a meter of a part of its work, which it expects already.

    Attributes:
        whole: the meter.
        counted: work that it expects of this part, and of which this part has told nothing.
    """

    whole: Meter
    counted: float

    def expect(self, amount: float) -> None:
        """See ``Meter``; only what was not counted is new."""
        known = min(max(0.0, amount), self.counted)
        self.counted -= known
        self.whole.expect(amount - known)

    def doing(self, what: str) -> None:
        """See ``Meter``."""
        self.whole.doing(what)

    def done(self, amount: float) -> None:
        """See ``Meter``."""
        self.whole.done(amount)

    def note(self, sentence: str) -> None:
        """See ``Meter``."""
        self.whole.note(sentence)

    def only(self, amount: float) -> None:
        """So much more is to come of this part, and not what was counted."""
        self.whole.expect(amount - self.counted)
        self.counted = amount


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
            lines.end()
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        _Left(tally := Tally()),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield BarMeter(progress, tally)
