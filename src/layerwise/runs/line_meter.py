"""Progress without a terminal: a line on the error stream now and then, with the time left.

A log or a notebook's output cannot be drawn over, so that a bar is no use there.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

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


@dataclass(kw_only=True)
class Tally:
    """How much of the work is done, and how long the rest takes at the rate so far."""

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

    def done(self, amount: float) -> None:
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
    def left(self) -> float | None:
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

    def doing(self, what: str) -> None:
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
            self.write(f"100% done after {_in_words(self.clock() - self.started)}")

    def line(self) -> str:
        """How far the work is."""
        elapsed = _in_words(self.clock() - self.started)
        if not self.total:  # nobody said how much there is to do
            return f"{self.what} for {elapsed}"
        rest = "" if self.left is None else f", about {_in_words(self.left)} left"
        return f"{self.share:.0%} done after {elapsed}{rest} ({self.what})"


def _in_words(seconds: float) -> str:
    from .records import seconds_in_words

    return seconds_in_words(seconds)


@contextlib.contextmanager
def ticking(meter: LineMeter, pause: float = 1.0) -> Iterator[LineMeter]:
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
