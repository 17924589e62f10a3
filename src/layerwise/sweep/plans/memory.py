"""Memory budget of a sweep if nobody gives one: half of what is free, on whatever device."""

from __future__ import annotations

from pathlib import Path

import psutil

SMALLEST, LARGEST = 2**28, 2**36
# Limits of a container (control groups, version 2), which the machine's own figures do not show.
_GROUP = Path("/sys/fs/cgroup")


def default_memory_budget(device: str = "cpu") -> int:
    """Half of the free memory, rounded down to a power of two, from 256 MiB to 64 GiB; in bytes."""
    # Rounded, so that small changes of what is free do not change how a sweep is cut.
    half = max(1, free_memory(device) // 2)
    return min(max(2 ** (half.bit_length() - 1), SMALLEST), LARGEST)


def free_memory(device: str = "cpu") -> int:
    """Free bytes of a device."""
    if device.startswith("cuda"):
        import torch

        place = torch.device(device)
        # What torch keeps for later is not free for others, and is for it.
        kept = torch.cuda.memory_reserved(place) - torch.cuda.memory_allocated(place)
        return int(torch.cuda.mem_get_info(place)[0]) + kept
    free = int(psutil.virtual_memory().available)
    limit, used = (_number(_GROUP / name) for name in ("memory.max", "memory.current"))
    return free if limit is None or used is None else min(free, max(0, limit - used))


def _number(path: Path) -> int | None:
    """A number of a control group; None without a group or limit (``max``)."""
    try:
        return int(path.read_text("ascii"))
    except (OSError, ValueError):
        return None
