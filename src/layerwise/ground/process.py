"""Settings of the command line for its whole process; the package leaves its user's alone."""

from __future__ import annotations

import ctypes
import gc

# Of glibc's malloc.h, and the largest number that the function takes.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _MOST = -1, -3, 2**31 - 1
_beside = False


def work_beside() -> None:
    """Let a second process share the work from now on, where there is much to draw."""
    # Not for a script: the second one begins by importing the main module of the first.
    global _beside
    _beside = True


def has_beside() -> bool:
    """True if a second process may be started."""
    return _beside


def collect_garbage_rarely() -> None:
    """Look for garbage less often, as what modules and tables are made of is none."""
    # Tensors are freed without it. A tenth of a small model's profile is saved.
    gc.set_threshold(50_000, 20, 20)


def keep_texts_as_objects() -> None:
    """Let tables made from now on keep texts as Python's own, not in Arrow's arrays."""
    # Picking rows of tables of some hundred rows is quicker so, and no slower with sixty thousand:
    # a sixth of the processor time of what follows from a run's records.
    import pandas as pd

    pd.set_option("mode.string_storage", "python")


def settle() -> None:
    """Once the model is loaded: it and the modules stay, and freed memory is kept for more."""
    # No collection looks any more at what is there now. Memory for activations is otherwise given
    # back to the system each time and had again, every page of it zeroed: up to a seventh of a
    # small model's sweep.
    gc.freeze()
    keep_freed_memory()


def keep_freed_memory() -> bool:
    """Let the allocator keep freed memory for what is needed next, where it can be asked to."""
    try:
        ask = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, another system
        return False
    return bool(ask(_M_MMAP_THRESHOLD, _MOST) and ask(_M_TRIM_THRESHOLD, _MOST))
