"""What numbers are computed under, and what differs between the settings of two runs, in words.

What must agree for a run to go on is settled in ``setup`` and by each analysis.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

# Settings that kept runs of published studies lack, so that they cannot be held to them.
_LATER = ("source_hash", "tokenizer_hash", "tasks_as_read", "prompts_hash", "beside")
_COUNTED, _HASH = re.compile(r"(\d+) items, [0-9a-f]{64}"), re.compile("[0-9a-f]{64}")
_WITHIN = {"tasks": "task", "tasks_as_read": "task"}
_HASHED = {
    "model_hash": "the weights changed",
    "other_hash": "the other model's weights changed",
    "teacher_hash": "the teacher's weights changed",
    "source_hash": "the model's files changed",
    "tokenizer_hash": "the tokenizer changed",
    "prompts_hash": "the prompts changed (a chat template may put today's date in)",
    "text_hash": "the texts changed",
}
Environment = Mapping[str, Any]


def kept_since(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """The new settings without those that came later than the old ones."""
    return {key: value for key, value in new.items() if key in old or key not in _LATER}


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Differences between settings, nested entries included."""
    kept, without = kept_since(old, new), {"prompts_hash": None}
    # Prompts follow from all else, and the clock.
    alike = old | without == kept | without
    return _differences("", old, kept) if alike else _differences("", old | without, kept | without)


def _differences(within: str, old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    lines: list[str] = []
    for key in sorted(old.keys() | new.keys()):
        was, now = old.get(key), new.get(key)
        if was == now:
            continue
        if isinstance(was, dict) and isinstance(now, dict):
            lines += _differences(f"{within}{_WITHIN.get(key, key)} ", was, now)
        else:
            lines.append(f"{within}{_difference(key, was, now)}")
    return lines


def _difference(key: str, was: Any, now: Any) -> str:
    """A difference: of hashes what they are of, of items how many there are."""
    before, after = (_COUNTED.fullmatch(str(value)) for value in (was, now))
    if before and after:
        counts = f"{before[1]} items -> {after[1]} items"
        return f"{key}: {counts if before[1] != after[1] else 'other items'}"
    if _HASH.fullmatch(str(was)) and _HASH.fullmatch(str(now)):
        return _HASHED.get(key, f"{key.replace('_', ' ')} changed")
    texts = (json.dumps(value) for value in (was, now))
    short = [text if len(text) <= 60 else f"{text[:57]}..." for text in texts]
    return f"{key} was {short[0]} and is now {short[1]}"


def environment_now(versions: Mapping[str, str]) -> dict[str, Any]:
    """This process's versions, threads and kernels, as plain JSON values."""
    import torch

    environment: dict[str, Any] = {
        **versions,
        "threads": torch.get_num_threads(),
        "kernels": torch.backends.cpu.get_cpu_capability(),
        "oneDNN": bool(torch.backends.mkldnn.enabled),
        "float32 products": torch.get_float32_matmul_precision(),
        "deterministic kernels": torch.are_deterministic_algorithms_enabled(),
    }
    if torch.cuda.is_initialized():
        environment["GPU"] = torch.cuda.get_device_name()
    return environment
