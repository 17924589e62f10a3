"""A progress bar with an estimate of the time left, over work counted in operations.

Drawing is rich's. Where there is no terminal, lines are written now and then (``LineMeter``).
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.table import Column
from rich.text import Text

from layerwise.errors import printable

# Seconds until the first line, so that short commands say nothing, and between further ones.
FIRST, EVERY = 30.0, 60.0
# Work that is done in less time was done before: a piece of an interrupted run.
AT_ONCE = 0.01
# The share that is told when all is measured: statistics and tables are still to be made.
UNTIL_THE_END = 0.99


def say(line: str) -> None:
    """Write a line to the error stream, as far as there is one."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        print(f"layerwise: {line}", file=sys.stderr, flush=True)


def seconds_in_words(seconds: float | int) -> str:
    """Seconds, minutes, or hours and minutes, with as many digits as mean something."""
    if round(seconds) < 60:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes = seconds / 60
    if round(minutes) < 60:
        return f"{minutes:.1f} min" if minutes < 9.95 else f"{minutes:.0f} min"
    return f"{round(minutes) // 60} h {round(minutes) % 60:02d} min"


class Meter:
    """Receiver of an analysis's progress; this one shows nothing."""

    def expect(self, amount: float) -> None:
        """Add expected work."""

    def set_activity(self, what: str) -> None:
        """Set the current activity."""

    def add_work(self, amount: float) -> None:
        """Add finished work."""

    def note(self, sentence: str) -> None:
        """Show a note."""


@dataclass(kw_only=True)
class Tally(Meter):
    """Count of finished work, and how long the rest takes at the rate so far."""

    clock: Callable[[], float] = time.monotonic  # seconds, from whenever
    total: float = 0.0  # all work, in whatever unit
    finished: float = 0.0  # how much of it is done
    before: float = 0.0  # how much of that was done by an earlier run
    # The largest share that was ever done; more work that turns up does not lower it.
    most: float = 0.0

    def __post_init__(self) -> None:
        self.started = self.began = self.last = self.event = self.clock()

    def expect(self, amount: float) -> None:
        """See ``Meter``."""
        self.total += amount
        self.event = self.clock()

    def add_work(self, amount: float) -> None:
        """See ``Meter``."""
        now = self.clock()
        if not self.finished:  # what was counted before takes no part in the rate
            self.began = self.event
        self.finished += amount
        if now - self.event < AT_ONCE:
            self.before += amount
        self.event = self.last = now

    @property
    def share(self) -> float:
        """The share that is done, 0 to 0.99 until the run has ended; it never falls."""
        if self.total > 0:
            self.most = max(self.most, min(UNTIL_THE_END, self.finished / self.total))
        return self.most

    @property
    def seconds_left(self) -> float | None:
        """Seconds that the rest takes; None of no rate, no rest, or longer work than foreseen."""
        own = self.finished - self.before
        if own <= 0 or self.total <= self.finished:
            return None
        rest = (self.last - self.began) * (self.total - self.finished) / own
        waited = self.clock() - self.last
        return rest - waited if waited < rest else None


@dataclass
class LineMeter(Tally):
    """A ``Meter`` that writes lines now and then."""

    write: Callable[[str], None] = say  # takes a line
    what: str = "starting"  # what is being done

    def __post_init__(self) -> None:
        super().__post_init__()
        self.due, self.printed = self.started + FIRST, False

    def set_activity(self, what: str) -> None:
        """See ``Meter``."""
        self.what = printable(what)

    def note(self, sentence: str) -> None:
        """See ``Meter``."""
        self.write(sentence)

    def tick(self) -> None:
        """Write a line if one is due."""
        now = self.clock()
        if now >= self.due:
            self.due, self.printed = now + EVERY, True
            self.write(self.line())

    def end(self) -> None:
        """Write the last line, where there were others."""
        if self.printed:
            self.most = 1.0
            self.write(f"100% done after {seconds_in_words(self.clock() - self.started)}")

    def line(self) -> str:
        """Progress of the work, as one line."""
        elapsed = seconds_in_words(self.clock() - self.started)
        if not self.total:  # nobody said how much there is to do
            return f"{self.what} for {elapsed}"
        rest = (
            ""
            if self.seconds_left is None
            else f", about {seconds_in_words(self.seconds_left)} left"
        )
        return f"{self.share:.0%} done after {elapsed}{rest} ({self.what})"


@contextlib.contextmanager
def tick_in_background(meter: LineMeter, pause: float = 1.0) -> Iterator[LineMeter]:
    """Have lines written while work goes on, also within a long piece of it."""
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(pause):
            meter.tick()

    watcher = threading.Thread(target=watch, name="layerwise progress", daemon=True)
    watcher.start()
    try:
        yield meter
    finally:
        stop.set()
        watcher.join()


class BarMeter(Tally):
    """Draws a bar of one line, on which what is being done is cut where there is no room for it."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock=clock)
        whole = Column(no_wrap=True, ratio=1)
        self.progress = Progress(
            TextColumn("{task.description}", markup=False, table_column=whole),
            BarColumn(bar_width=10),
            TextColumn("{task.fields[share]}", table_column=Column(no_wrap=True, min_width=4)),
            TimeElapsedColumn(table_column=Column(no_wrap=True, min_width=7)),
            _TimeLeftColumn(self),
            console=console, transient=True, expand=True,
        )  # fmt: skip
        self.bar = self.progress.add_task("starting", total=None, share="")

    def expect(self, amount: float) -> None:
        """See ``Meter``."""
        super().expect(amount)
        self._show(total=1.0)

    def set_activity(self, what: str) -> None:
        """See ``Meter``."""
        self.progress.update(self.bar, description=printable(what))

    def add_work(self, amount: float) -> None:
        """See ``Meter``."""
        super().add_work(amount)
        self._show()

    def _show(self, **changed: Any) -> None:
        shown = {"completed": self.share, "share": f"{self.share:.0%}", **changed}
        self.progress.update(self.bar, **shown)

    def note(self, sentence: str) -> None:
        """See ``Meter``."""
        self.progress.console.print(f"layerwise: {printable(sentence)}", markup=False)


class _TimeLeftColumn(ProgressColumn):
    """The time that is left by a tally."""

    def __init__(self, tally: Tally) -> None:
        super().__init__(Column(no_wrap=True, min_width=len("23 h 59 min left")))
        self.tally = tally

    def render(self, task: Task) -> Text:
        left = self.tally.seconds_left
        return Text("" if left is None else f"{seconds_in_words(left)} left")


class PartMeter(Meter):
    """Reports to a meter a part of the work that it already expects."""

    def __init__(self, whole: Meter, counted: float) -> None:
        # counted: work that the meter expects of this part, and of which it was told nothing.
        self.whole, self.counted = whole, counted
        self.set_activity, self.add_work, self.note = whole.set_activity, whole.add_work, whole.note

    def expect(self, amount: float) -> None:
        """See ``Meter``; only what was not counted is new."""
        known = min(max(0.0, amount), self.counted)
        self.counted -= known
        self.whole.expect(amount - known)

    def set_expected(self, amount: float) -> None:
        """So much more is to come of this part, and not what was counted."""
        self.whole.expect(amount - self.counted)
        self.counted = amount


# The share of a piece that its first sweep has, of what is left the next one, and so on.
_MOST = 0.9
# Seconds between two words on a piece that is being made.
_PAUSE = 0.1


Tell = Callable[[float], None]
_SWEEP: ContextVar[Callable[[], Tell] | None] = ContextVar("sweep", default=None)


@contextlib.contextmanager
def telling_of_piece(progress: Meter, amount: float) -> Iterator[None]:
    """Have the sweeps within tell a meter how much of a piece is done; all of it at the end."""
    left = amount  # work of which nothing was told yet

    def sweep() -> Tell:
        least, whole, last_time = left * (1 - _MOST), left, time.monotonic()

        def tell(share: float) -> None:
            nonlocal left, last_time
            more, now = left - max(least, whole * (1 - _MOST * share)), time.monotonic()
            if more > 0 and now - last_time >= _PAUSE:
                left, last_time = left - more, now
                progress.add_work(more)

        return tell

    before = _SWEEP.set(sweep)
    try:
        yield
    finally:
        _SWEEP.reset(before)
    progress.add_work(left)


def sweep_progress() -> Tell | None:
    """Callback of a sweep for the progress of the piece that is being made; None of no piece."""
    sweep = _SWEEP.get()
    return None if sweep is None else sweep()


@contextlib.contextmanager
def meter(show: bool) -> Iterator[Meter]:
    """A meter for as long as a job: a bar on a terminal, else lines; silent unless ``show``."""
    # In a notebook rich would want ipywidgets; plain text works everywhere.
    console = Console(stderr=True, force_jupyter=False)
    if not show:
        yield Meter()
        return
    if not console.is_terminal:
        with tick_in_background(LineMeter()) as lines:
            yield lines
            lines.end()
        return
    bar = BarMeter(console)
    with bar.progress:
        yield bar
