"""Tensors and plain facts as bytes, without pickle: safetensors, with the facts in its header."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from safetensors.torch import load, save

_FACTS = "facts"


def pack(tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> bytes:
    """Tensors by name, and facts as JSON."""
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    return save(plain, metadata={_FACTS: json.dumps(facts)})


def unpack(content: bytes) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """What ``pack`` was given."""
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    return load(content), json.loads(header["__metadata__"][_FACTS])
