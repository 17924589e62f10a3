"""Damages a file that is read, reads it, and judges what came of it.

What is damaged is told, or changes nothing, or changes what identifies the input. Which files
there are, and how each is read, is in ``flipped_files``.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from layerwise.errors import OtherEnvironmentWarning, UserError
from tests.hostile.damage import Damage, FileReplacement
from tests.hostile.limits import TooLongError, is_sentence, within_limits

TOLD, UNCHANGED, VISIBLE = "told", "unchanged", "visible"


@dataclass(frozen=True)
class Reading:
    """Contents that a user would take from a file, and hashes by which results name it."""

    numbers: Any
    identity: Any = None


@dataclass(frozen=True)
class FlippedFile:
    """A file that is read; what ``defines_input`` may change, as long as results say so."""

    name: str
    path: Path
    read: Callable[[], Reading]
    defines_input: bool = False


@dataclass(frozen=True)
class Silent:
    """Damage to a kept file that was not met as it should be, and what happened."""

    kept: str
    damage: Damage | FileReplacement
    what: str


def judge_damages(
    kept: FlippedFile, damages: Iterable[Damage | FileReplacement]
) -> tuple[Counter[str], list[Silent]]:
    """Damage a file in all these ways, one after the other; it is whole again afterwards.

    Counts of what was told, changed nothing or showed in the input's identity; and all the rest.
    """
    whole, status = kept.path.read_bytes(), kept.path.stat()
    expected = kept.read()
    verdicts: Counter[str] = Counter()
    silent = []
    for damage in damages:
        damage.damage_file(kept.path)
        try:
            verdict = _verdict(kept, expected)
        finally:
            kept.path.parent.mkdir(parents=True, exist_ok=True)
            if kept.path.is_symlink() or not kept.path.is_file():
                kept.path.unlink(missing_ok=True)
            kept.path.write_bytes(whole)
            os.utime(kept.path, ns=(status.st_atime_ns, status.st_mtime_ns))
        verdicts[verdict] += 1
        if verdict not in (TOLD, UNCHANGED, VISIBLE):
            silent.append(Silent(kept.name, damage, verdict))
    return verdicts, silent


def _verdict(kept: FlippedFile, expected: Reading) -> str:
    try:
        with within_limits():
            found = kept.read()
    # Warnings are errors in tests; this one names what differs of a part's versions.
    except (OtherEnvironmentWarning, UserError) as error:
        return TOLD if is_sentence(str(error)) else f"no sentence: {error}"
    except (Exception, TooLongError) as error:
        return f"{type(error).__name__}: {error}"
    if found.numbers == expected.numbers:
        return UNCHANGED
    if kept.defines_input and found.identity != expected.identity:
        return VISIBLE
    return "read as something else, under the same hash"
