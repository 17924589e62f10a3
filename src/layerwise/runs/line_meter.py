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


def say(line: str) -> None:
    """Write a line to the error stream, as far as there is one."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        print(f"layerwise: {line}", file=sys.stderr, flush=True)


@dataclass
class LineMeter:
    """Tells by a line when one is due; see ``Meter`` for what it is told.

    Attributes:
        write: takes a line.
        clock: seconds, from whenever.
        total: all work, in whatever unit.
        finished: how much of it is done.
        before: how much of that was done by an earlier run.
        what: what is being done.
    """

    write: Callable[[str], None] = say
    clock: Callable[[], float] = time.monotonic
    total: float = 0.0
    finished: float = 0.0
    before: float = 0.0
    what: str = "starting"

    def __post_init__(self) -> None:
        self.started = self.event = self.clock()
        self.due = self.started + FIRST

    def expect(self, amount: float) -> None:
        """See ``Meter``."""
        self.total += amount
        self.event = self.clock()

    def doing(self, what: str) -> None:
        """See ``Meter``."""
        self.what = printable(what)

    def done(self, amount: float) -> None:
        """See ``Meter``."""
        now = self.clock()
        self.finished += amount
        if now - self.event < AT_ONCE:
            self.before += amount
        self.event = now

    def note(self, sentence: str) -> None:
        """See ``Meter``."""
        self.write(sentence)

    def tick(self) -> None:
        """Write a line if one is due."""
        now = self.clock()
        if now >= self.due:
            self.due = now + EVERY
            self.write(self.line(now - self.started))

    def line(self, elapsed: float) -> str:
        """How far the work is.

        Args:
            elapsed: seconds since the start.
        """
        from .records import seconds_in_words

        share = min(1.0, self.finished / self.total) if self.total > 0 else 0.0
        told = f"{share:.0%} done after {seconds_in_words(elapsed)}"
        mine = self.finished - self.before
        if mine > 0 and self.total > self.finished:
            left = elapsed * (self.total - self.finished) / mine
            told += f", about {seconds_in_words(left)} left"
        return f"{told} ({self.what})"


@contextlib.contextmanager
def ticking(meter: LineMeter, pause: float = 1.0) -> Iterator[LineMeter]:
    """Have lines written while work goes on, also within a long piece of it.

    Args:
        meter: writes them.
        pause: seconds between looks at the clock.
    """
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
