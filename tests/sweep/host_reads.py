"""Reads of a tensor's numbers, for which the host waits for the device, seen on any machine."""

from __future__ import annotations

import os
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

import layerwise

PACKAGE = f"{Path(layerwise.__file__).parent}{os.sep}"

# Their results, or the shapes of their results, depend on numbers that the device must give.
# ``numpy`` is none: it takes only what is on the host.
READS = frozenset(
    {
        *("item", "tolist", "cpu", "__bool__", "__int__", "__float__", "__index__"),
        *("nonzero", "argwhere", "masked_select", "unique", "unique_consecutive"),
        *("equal", "allclose", "is_nonzero", "bincount", "repeat_interleave"),
    }
)
MASKED = frozenset({"__getitem__", "__setitem__", "index_put", "index_put_"})


class HostReads(TorchFunctionMode):
    """Counts the reads that Python code asks for, by file and line."""

    def __init__(self) -> None:
        super().__init__()
        self.places: Counter[str] = Counter()

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = getattr(function, "__name__", "")
        # A where() with a condition alone is a nonzero(); a mask as an index is one, too.
        alone = name == "where" and len(args) + len(kwargs or {}) == 1
        if name in READS or alone or (name in MASKED and _has_mask(args[1])):
            self.places[_caller()] += 1
        return function(*args, **(kwargs or {}))


def _has_mask(index: Any) -> bool:
    parts = index if isinstance(index, tuple | list) else (index,)
    return any(isinstance(part, torch.Tensor) and part.dtype == torch.bool for part in parts)


def _caller() -> str:
    """The line of the package that is nearest to the read."""
    for frame in reversed(traceback.extract_stack()):
        if frame.filename.startswith(PACKAGE):
            return f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno} {frame.line}"
    return "elsewhere"
