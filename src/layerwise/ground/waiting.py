"""How threads of matrix products wait for each other: awake on a free machine, else asleep.

OpenMP's threads wait awake for some milliseconds, so that the next product finds them ready. Where
other programs want the processors, that takes from this very process what it needs. GNU's library
waits briefly once it has more threads than there are processors. So here is a thread that gives it
some, which sleep, while others want this process's processors. The number of threads that compute
stays what it is, and with it every bit of the results.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

DECIDED_BY = (
    "OMP_NUM_THREADS", "OMP_WAIT_POLICY", "OMP_DYNAMIC", "OMP_THREAD_LIMIT", "OMP_PROC_BIND",
    "OMP_PLACES", "GOMP_SPINCOUNT", "GOMP_CPU_AFFINITY", "KMP_BLOCKTIME", "KMP_AFFINITY",
    "MKL_NUM_THREADS",
)  # fmt: skip
"""Variables of the environment by which a user decides how threads wait, or how many there are."""

SECONDS = 0.1
"""Between two looks."""
# Processors that others have, of those that this process may use, from which threads sleep: two
# looks beside one busy process suffice, and a moment now and then changes nothing. Threads that
# sleep leave others more, so that a second or two must go by in which these want them no more.
_TAKEN_FROM, _WEIGHT, _WEIGHT_ASLEEP = 0.3, 0.25, 0.1
# Where the kernel does not tell, threads always wait awake for so many turns of a loop: 20 us.
_TURNS = "1000"


def wait_briefly_beside_others(environment: MutableMapping[str, str] = os.environ) -> bool:
    """From now on, let OpenMP's threads wait briefly whenever other programs want processors."""
    # To be called before torch is imported.
    decided = any(name in environment for name in DECIDED_BY)
    if decided or not sys.platform.startswith("linux"):
        return False
    if not Counts.now().busy:
        environment["GOMP_SPINCOUNT"] = _TURNS
        return False
    threading.Thread(target=_look_after, name="layerwise-waiting", daemon=True).start()
    return True


@dataclass(frozen=True)
class Waiting:
    """How threads wait, and why."""

    briefly: bool = False  # whether they soon sleep
    taken: float = (
        0.0  # how many processors others had lately, with none idle if threads wait awake
    )

    def after(self, taken: float, idle: float) -> Waiting:
        """How to wait after another look: processors that others had, and that nobody had."""
        # Who leaves processors idle takes none from this process.
        if not self.briefly and idle >= _TAKEN_FROM:
            taken = 0.0
        weight = _WEIGHT_ASLEEP if self.briefly else _WEIGHT
        lately = self.taken + weight * (taken - self.taken)
        if lately < _TAKEN_FROM:
            return Waiting(False, lately)
        return Waiting(True, lately if self.briefly else max(1.0, lately))


@dataclass(frozen=True)
class Counts:
    """Processor time, in seconds, that the kernel has counted until a moment."""

    at: float  # the moment
    busy: float  # of the processors that this process may use, by whomever
    own: float  # of this process

    @classmethod
    def now(cls) -> Counts:
        """What is counted now."""
        every, usable = psutil.cpu_times(percpu=True), os.sched_getaffinity(0)
        # Time of guests is the user's, too; that of waiting for a disk is idle.
        kinds = ("user", "nice", "system", "irq", "softirq", "steal")
        times = [every[each] for each in usable if each < len(every)]
        busy = sum(getattr(one, kind) for one in times for kind in kinds)
        return cls(time.monotonic(), busy, time.process_time())

    def since(self, before: Counts) -> tuple[float, float]:
        """How many of its processors others have had, and how many were idle."""
        seconds = self.at - before.at
        busy, own = (self.busy - before.busy) / seconds, (self.own - before.own) / seconds
        return max(0.0, busy - own), len(os.sched_getaffinity(0)) - busy


def _look_after() -> None:
    """Look now and then whether others want processors, and set the waiting accordingly."""
    waiting, more, before = Waiting(), _MoreThreads(), Counts.now()
    while True:
        time.sleep(SECONDS)
        now = Counts.now()
        waiting = waiting.after(*now.since(before))
        more.set(waiting.briefly)
        before = now


class _MoreThreads:
    """More threads of GNU's OpenMP than there are processors, all asleep, while they are wanted."""

    def __init__(self) -> None:
        self._end: threading.Event | None = None

    def set(self, wanted: bool) -> None:
        """Have them from now on, or no longer."""
        if wanted and self._end is None:
            mapped: list[str] = []
            with suppress(OSError):
                mapped = Path("/proc/self/maps").read_text(errors="replace").splitlines()
            libraries = list(loaded_libraries(mapped))
            if libraries:  # not before torch is loaded
                self._end = threading.Event()
                threading.Thread(target=_hold, args=(libraries, self._end), daemon=True).start()
        elif not wanted and self._end is not None:
            self._end.set()
            self._end = None


def loaded_libraries(mapped: Iterable[str]) -> Iterator[str]:
    """Paths of the copies of GNU's OpenMP in a process, from the lines of ``/proc/self/maps``."""
    paths = (line.split(maxsplit=5)[-1] for line in mapped)
    yield from sorted({path for path in paths if Path(path).name.startswith("libgomp")})


def _hold(libraries: Iterable[str], end: threading.Event) -> None:
    """Begin a team of more threads than processors in each library; it ends with this thread."""
    for path in libraries:
        with suppress(OSError, AttributeError):
            library = ctypes.CDLL(path)
            begin = library.GOMP_parallel
            begin.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
            begin.restype = None
            # What each of them does is ask for its number.
            each = ctypes.cast(library.omp_get_thread_num, ctypes.c_void_p)
            begin(each, None, len(os.sched_getaffinity(0)) + 1, 0)
    end.wait()
