"""Matrix products: which a computation makes, and how fast this machine makes the same ones.

What is counted are products with weights (``mm``, ``addmm`` and the latter in place);
attention's own are not.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
Shape = tuple[int, int, int]  # rows, inner size, columns


class ProductCounter(TorchDispatchMode):
    """While entered, counts matrix products by shape; what is computed stays the same."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: Counter[Shape] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.overloadpacket in (aten.mm, aten.addmm, aten.addmm_):
            left, right = args[-2:]
            self.shapes[left.shape[0], left.shape[1], right.shape[1]] += 1
        else:
            # Under inference mode a linear layer arrives whole; its parts are counted.
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        return func(*args, **kwargs)

    @property
    def operations(self) -> int:
        """Floating-point operations, two for each multiplication and addition."""
        return sum(_operations(shape) * times for shape, times in self.shapes.items())

    def largest(self, n: int) -> list[tuple[Shape, int]]:
        """The ``n`` shapes that most operations go into, and how often each was used."""
        key = lambda shape: _operations(shape) * self.shapes[shape]  # noqa: E731
        return [(s, self.shapes[s]) for s in sorted(self.shapes, key=key, reverse=True)[:n]]


def _operations(shape: Shape) -> int:
    rows, inner, columns = shape
    return 2 * rows * inner * columns


def product_rate(shapes: Counter[Shape], dtype: torch.dtype, covering: float = 0.98) -> float:
    """Operations per second of bare products at these shapes, weighted by their operations.

    Args:
        shapes: the shapes, and how often each was used.
        dtype: number format.
        covering: the largest shapes are timed until they make up this share of the operations.
    """
    share = {shape: _operations(shape) * times for shape, times in shapes.items()}
    total, counted, seconds = sum(share.values()), 0, 0.0
    for shape in sorted(share, key=lambda shape: share[shape], reverse=True):
        if counted >= covering * total:
            break
        counted += share[shape]
        seconds += shapes[shape] * _fastest(shape, dtype)
    return counted / seconds


@torch.inference_mode()
def _fastest(shape: Shape, dtype: torch.dtype, for_seconds: float = 0.3) -> float:
    """Seconds of one product, the fastest of as many as fit into ``for_seconds`` (3 at least)."""
    rows, inner, columns = shape
    left, weight = torch.randn(rows, inner).to(dtype), torch.randn(columns, inner).to(dtype)
    times: list[float] = []
    end = time.perf_counter() + for_seconds
    while len(times) < 3 or time.perf_counter() < end:
        started = time.perf_counter()
        torch.nn.functional.linear(left, weight)
        times.append(time.perf_counter() - started)
    return min(times)
