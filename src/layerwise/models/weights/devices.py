"""Number formats and devices: from the user's word to torch, or one clear refusal.

Nothing is moved or converted here.
"""

from __future__ import annotations

import torch

from layerwise.errors import UserError, unknown_name

DTYPES: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
DEVICES = ("cpu", "cuda", "mps")


def parse_dtype(name: str) -> torch.dtype:
    """The number format of that name."""
    if name not in DTYPES:
        raise unknown_name("dtype", name, DTYPES)
    return DTYPES[name]


def parse_device(name: str) -> torch.device:
    """The device of that name, e.g. ``cpu``, ``cuda``, ``cuda:1`` or ``mps``."""
    kind = name.partition(":")[0]
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or kind not in DEVICES:
        raise unknown_name("device", name, DEVICES)
    count = _count(kind)
    if (device.index or 0) >= count:
        here = ", ".join(f"{kind}:{index}" for index in range(count))
        raise UserError(
            f"Device {name!r} is not available here: expected 'cpu'"
            f"{f' or one of {here}' if here else ''}; choose that, or run where torch sees the "
            "device."
        )
    return device


def _count(kind: str) -> int:
    if kind == "cuda":
        return torch.cuda.device_count() if torch.cuda.is_available() else 0
    if kind == "mps":
        return int(torch.backends.mps.is_available())
    return 1
