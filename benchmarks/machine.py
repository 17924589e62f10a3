"""The facts of the machine that a time depends on, in one line."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

import torch

# What decides how fast matrix products can be, as Linux names it.
UNITS = ("avx2", "avx512f", "avx512_bf16", "amx_tile", "amx_bf16")


def machine(*packages: str) -> str:
    """Processor, its vector and matrix units, cores, threads, load now, and versions.

    Args:
        packages: whose versions are told besides those of torch and TransformerLens.
    """
    told = _processor()
    has = [unit for unit in UNITS if unit in told.get("flags", "").split()]
    lacks = [unit for unit in UNITS if unit not in has] if "flags" in told else []
    versions = [
        f"{name} {metadata.version(name)}" for name in ("torch", "transformer-lens", *packages)
    ]
    return (
        f"{told.get('model name') or platform.processor() or platform.machine()} "
        f"(has {', '.join(has) or 'units that are not known'}"
        f"{'; has no ' + ', '.join(lacks) if lacks else ''}), {os.cpu_count()} cores, "
        f"threads of torch: {torch.get_num_threads()}, load {os.getloadavg()[0]:.1f} at the start; "
        f"Python {platform.python_version()}, {', '.join(versions)}, "
        f"layerwise {metadata.version('layerwise')}."
    )


def _processor() -> dict[str, str]:
    """Name of the first core as Linux tells it; nothing elsewhere."""
    info = Path("/proc/cpuinfo")
    first = info.read_text().split("\n\n")[0].splitlines() if info.exists() else []
    pairs = [line.split(":", 1) for line in first if ":" in line]
    return {name.strip(): value.strip() for name, value in pairs}
