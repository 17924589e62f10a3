"""What numbers were computed under, and what that changes in a run that goes on.

Versions, threads and kernels decide the last digits of a sum; what a run is asked does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Environment = Mapping[str, Any]
"""Versions, threads and kernels by name, as plain JSON values."""


def environment_now(versions: Mapping[str, str]) -> dict[str, Any]:
    """What this process computes under, as plain JSON values."""
    import torch

    found: dict[str, Any] = {
        **versions,
        "threads": torch.get_num_threads(),
        "kernels": torch.backends.cpu.get_cpu_capability(),
        "oneDNN": bool(torch.backends.mkldnn.enabled),
        "float32 products": torch.get_float32_matmul_precision(),
        "deterministic kernels": torch.are_deterministic_algorithms_enabled(),
    }
    if torch.cuda.is_initialized():
        found["GPU"] = torch.cuda.get_device_name()
    return found
