"""Peak resident memory of a piece of work, beyond what was there before it.

Works on this process, so that each measurement wants a fresh one: freed memory that the allocator
keeps would hide what comes later.
"""

from __future__ import annotations

import gc
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Peak:
    """Bytes beyond the beginning; 0 until the measurement is over."""

    bytes: int = 0


@contextmanager
def peak_growth() -> Iterator[Peak]:
    """Measure the peak of resident memory over what is done inside.

    On Linux the kernel's high-water mark is set back first (``proc(5)``, ``clear_refs``);
    elsewhere only what exceeds the process's earlier peak is seen.
    """
    gc.collect()
    if _CLEAR.exists():
        _CLEAR.write_text("5")
    before, peak = _high_water_mark(), Peak()
    yield peak
    peak.bytes = _high_water_mark() - before


def _high_water_mark() -> int:
    """Largest resident size so far, in bytes."""
    if _STATUS.exists():
        (line,) = (line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024
