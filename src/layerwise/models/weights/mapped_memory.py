"""Early release of memory: mapped weights, and memory that torch has freed."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import mmap
from bisect import bisect_right
from collections.abc import Callable, Iterator
from pathlib import Path

from .strides import Weight

_MAPS = Path("/proc/self/maps")
_DONT_NEED = 4  # MADV_DONTNEED of Linux, see madvise(2)


@contextlib.contextmanager
def mapped_memory_releaser() -> Iterator[Callable[[Weight], None]]:
    """Yield a function that releases the memory of a weight in a mapped file."""
    # The system keeps the file in its own cache and reads it from there if the weight is looked at
    # again. Weights in other memory, and all of them where the system is not Linux, stay as they
    # are. Nobody may have written to a weight that is given.
    advise = getattr(ctypes.CDLL(None), "madvise", None) if _MAPS.exists() else None
    if advise is None:
        yield lambda weight: None
        return
    advise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    files = _mapped_weights()
    starts = [start for start, _ in files]

    def let_go(weight: Weight) -> None:
        start, n_bytes = _place(weight)
        index = bisect_right(starts, start) - 1
        if index >= 0 and start + n_bytes <= files[index][1]:
            # Pages at the ends belong to other weights, too.
            first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
            last = (start + n_bytes) // mmap.PAGESIZE * mmap.PAGESIZE
            if last > first:
                advise(first, last - first, _DONT_NEED)

    yield let_go


def release_freed_memory() -> None:
    """Collect unreferenced models and return freed memory to the system."""
    # The allocator of Linux keeps some freed weights for later; what is wanted next may be of
    # another size.
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if _MAPS.exists() else None
    if trim is not None:
        trim(0)


def _place(weight: Weight) -> tuple[int, int]:
    """Address at which the memory of a weight begins, and how many bytes it spans."""
    last = sum(
        (size - 1) * stride for size, stride in zip(weight.shape, weight.stride(), strict=True)
    )
    return weight.data_ptr(), (last + 1) * weight.element_size() if weight.numel() else 0


def _mapped_weights() -> list[tuple[int, int]]:
    """Beginnings and ends of the safetensors files that this process has mapped for itself."""
    ranges = []
    for line in _MAPS.read_text("utf-8", errors="replace").splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[1].endswith("p") and fields[5].endswith(".safetensors"):
            start, _, end = fields[0].partition("-")
            ranges.append((int(start, 16), int(end, 16)))
    return sorted(ranges)
