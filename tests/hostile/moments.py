"""Moments at which a process is ended: after a time, before a step on the disk, within a write.

Which of them are tried is drawn by a seed; what becomes of the process is not looked at here.
"""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

_SHORT = 64  # bytes; a command's own first words are longer
STEPS = ("fsync", "replace", "rename", "unlink", "rmdir", "mkdir")


@dataclass(frozen=True)
class Moment:
    """End of a process: after ``seconds``, before a ``step`` (of ``STEPS``), or at a ``byte``.

    The last is within the first write that makes a file longer than that.
    """

    kind: Literal["seconds", "step", "byte"]
    at: float

    def as_json(self) -> dict[str, Any]:
        """Plain values, for another process."""
        return asdict(self)


@dataclass(frozen=True)
class Course:
    """Seconds of an undisturbed run, its calls of ``STEPS``, and bytes of its longest file."""

    seconds: float
    steps: int
    longest: int


def drawn_moments(course: Course, seed: int) -> Iterator[Moment]:
    """Moments over the whole course, its end included, without end; kinds take turns."""
    rng = np.random.default_rng(seed)
    while True:
        yield Moment("step", int(rng.integers(1, course.steps + 1)))
        yield Moment("seconds", float(rng.uniform(0, course.seconds)))
        yield Moment("byte", int(np.exp(rng.uniform(np.log(_SHORT), np.log(course.longest)))))


class Counter:
    """Counts the steps of this process, and ends it before one of them if that is asked."""

    def __init__(self, last: float | None) -> None:
        self.steps, self.last = 0, last

    def watch(self) -> None:
        """Count from now on."""
        for name in STEPS:
            setattr(os, name, self._count_calls(getattr(os, name)))

    def _count_calls(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **named: Any) -> Any:
            self.steps += 1
            if self.steps == self.last:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **named)

        return counted


def end_at_length(n_bytes: int) -> None:
    """Let the system end this process within the write that makes a file longer than this."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # python would ignore it
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, n_bytes))
