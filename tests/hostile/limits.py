"""Limits of time and memory for what reads a hostile file here, and what its refusal looks like."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

SECONDS = 20.0  # of the processor, whatever else runs on the machine
_WAITED = 15  # times as many by the clock, for what waits for ever
MEMORY = 2**30  # bytes beyond what the process has already


class TooLongError(BaseException):
    """The limit of time is over; no ``except Exception`` hides it."""


@contextlib.contextmanager
def within_limits() -> Iterator[None]:
    """Let the block take ``SECONDS`` and ``MEMORY`` more than there is, and no more.

    Else it ends in ``TooLongError``, in MemoryError or in whatever a library says of memory.
    """

    def over(number: int, frame: FrameType | None) -> None:
        raise TooLongError(f"longer than {SECONDS:g} s")

    before = {number: signal.signal(number, over) for number in (signal.SIGPROF, signal.SIGALRM)}
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_mapped_bytes() + MEMORY, hard))
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.setitimer(signal.ITIMER_REAL, SECONDS * _WAITED)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        for number, handler in before.items():
            signal.signal(number, handler)


def _mapped_bytes() -> int:
    """Bytes of address space that the process has now."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def is_sentence(text: str) -> bool:
    """True if a message is one printable line that ends, and is not endless."""
    return text.isprintable() and text.endswith((".", "?", ")")) and len(text) < 2000
