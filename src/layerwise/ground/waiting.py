"""Waiting of OpenMP's threads for each other: awake on a free machine, asleep on a busy one.

OpenMP's threads wait awake for some milliseconds, so that the next product finds them ready. Where
other programs want the processors, that takes from this very process what it needs. GNU's library
waits briefly once it has more threads than there are processors. So here is a thread that gives it
some, which sleep, while this process has to wait for processors. The number of threads that
compute stays what it is, and with it every bit of the results.

Gain: on two processors at a load of 7, an ablation of ``organism-decoder`` took 2.9 to 3.4 s with
this, and 16 and 25 s without, in single runs in turns. A fixed short wait
(``GOMP_SPINCOUNT=1000``) took 2.8 to 3.6 s there, but costs 9 to 14 % on a free machine
(``benchmarks/README.md``, ``busy_machine.py``).
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

DECIDED_BY = (
    "OMP_NUM_THREADS", "OMP_WAIT_POLICY", "OMP_DYNAMIC", "OMP_THREAD_LIMIT", "OMP_PROC_BIND",
    "OMP_PLACES", "GOMP_SPINCOUNT", "GOMP_CPU_AFFINITY", "KMP_BLOCKTIME", "KMP_AFFINITY",
    "MKL_NUM_THREADS",
)  # fmt: skip
"""Variables of the environment by which a user decides how threads wait, or how many there are."""

SECONDS = 0.1
"""Between two looks."""
# Beside one busy process threads wait for half of each second or more; a look weighs so much that
# two suffice there, and that a moment of waiting now and then changes nothing.
_DELAYED_FROM, _DELAY_WEIGHT = 0.15, 0.25
# Threads that sleep hardly wait for processors, whoever else has them. So it is looked at who has
# them, and a second or two must go by in which they are free.
_TAKEN_FROM, _TAKEN_WEIGHT = 0.3, 0.1
# Where the kernel does not tell, threads always wait awake for so many turns of a loop: 20 us.
_TURNS = "1000"
_PROCESS = Path("/proc/self")
# Of the fields of ``stat`` behind the name.
_N_THREADS = 17


def wait_briefly_beside_others(environment: MutableMapping[str, str] = os.environ) -> bool:
    """From now on, let OpenMP's threads wait briefly whenever other programs want processors."""
    # To be called before torch is imported.
    decided = any(name in environment for name in DECIDED_BY)
    if decided or not sys.platform.startswith("linux"):
        return False
    if not Delays().now():
        environment["GOMP_SPINCOUNT"] = _TURNS
        return False
    threading.Thread(target=_adapt_waits, name="layerwise-waiting", daemon=True).start()
    return True


@dataclass(frozen=True)
class WaitPolicy:
    """Policy of waiting, with the measurements that decided it."""

    briefly: bool = False  # whether they soon sleep
    # How long they waited for a processor lately, in seconds of all threads for each second that
    # went by.
    delayed: float = 0.0
    # Of the processors that they could use, how many others had lately; all where nobody has
    # looked.
    taken: float = 1.0

    def next_policy(self, delayed: float, taken: float) -> WaitPolicy:
        """The way of waiting after another look."""
        lately = self.delayed + _DELAY_WEIGHT * (delayed - self.delayed)
        if self.briefly:
            had = self.taken + _TAKEN_WEIGHT * (taken - self.taken)
            return WaitPolicy(had >= _TAKEN_FROM, lately, had)
        return WaitPolicy(lately >= _DELAYED_FROM, lately)


class Delays:
    """Time for which each thread of the process could have run and had no processor."""

    # Python's other threads do not run while this reads: whoever takes turns with them for each
    # file would have them wait for a processor, too, each time.

    def __init__(self) -> None:
        self._n_threads, self._threads = -1, list[str]()

    def now(self) -> dict[str, int]:
        """Nanoseconds since each thread began, by its number; empty where the kernel tells not."""
        fields = _text(_PROCESS / "stat").rpartition(")")[2].split()
        if not fields:
            return {}
        if int(fields[_N_THREADS]) != self._n_threads:
            with suppress(OSError):
                self._threads = os.listdir(_PROCESS / "task")
            self._n_threads = int(fields[_N_THREADS])
        texts = {each: _text(_PROCESS / "task" / each / "schedstat") for each in self._threads}
        return {each: int(text.split()[1]) for each, text in texts.items() if text}


@functools.cache
def _system() -> ctypes.PyDLL:
    return ctypes.PyDLL(None)


def _text(path: Path) -> str:
    """Text of a short file of the kernel; nothing if it cannot be read."""
    system = _system()
    file = system.open(os.fsencode(path), os.O_RDONLY)
    if file < 0:
        return ""
    buffer = ctypes.create_string_buffer(1024)
    size = system.read(file, buffer, len(buffer))
    system.close(file)
    return buffer.raw[: max(0, size)].decode()


@dataclass(frozen=True)
class ProcessorCounts:
    """Counts of the kernel until a moment."""

    at: float  # the moment, in seconds
    delays: Mapping[str, int]  # how long each thread of the process waited for a processor, in ns
    busy: float  # seconds that all processors were busy, together
    own: float  # of these, for this process

    def delayed_since(self, before: ProcessorCounts) -> float:
        """Seconds that threads waited for a processor, of those in both looks, in each second."""
        both = self.delays.keys() & before.delays.keys()
        waited = sum(self.delays[each] - before.delays[each] for each in both) / 1e9
        return waited / (self.at - before.at)

    def taken_since(self, before: ProcessorCounts, usable: int, n_processors: int) -> float:
        """The number of processors that others have had, of those that the process can use."""
        busy, own = self.busy - before.busy, self.own - before.own
        others = (busy - own) / (self.at - before.at)
        return max(0.0, others - (n_processors - usable))


def busy_seconds() -> float:
    """Seconds that the machine's processors were busy, together, since it was started."""
    counted = [
        int(number) for number in _text(_PROCESS.parent / "stat").split("\n")[0].split()[1:9]
    ]
    idle = sum(counted[3:5])  # and those in which there was nothing to do but wait for a disk
    return (sum(counted) - idle) / os.sysconf("SC_CLK_TCK")


def _adapt_waits() -> None:
    """Measure now and then how long threads had to wait, and set their waiting accordingly."""
    waiting, more, delays = WaitPolicy(), _MoreThreads(), Delays()
    usable, n_processors = len(os.sched_getaffinity(0)), os.cpu_count() or 1

    def look() -> ProcessorCounts:
        return ProcessorCounts(time.monotonic(), delays.now(), busy_seconds(), time.process_time())

    before = look()
    while True:
        time.sleep(SECONDS)
        now = look()
        taken = now.taken_since(before, usable, n_processors)
        waiting = waiting.next_policy(now.delayed_since(before), taken)
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
                mapped = (_PROCESS / "maps").read_text(errors="replace").splitlines()
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
