"""Damage to a file: flipped bits, a missing end, a block of zeros; drawn by a seed.

Half of it strikes the part that describes the rest, which is small and matters most.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

_BLOCK = 512


@dataclass(frozen=True)
class Damage:
    """Damage of a file's bytes: some bits flip, it is cut at a byte, or zeros follow one.

    ``unnoticed``: the file's time of change stays, as when a disk rots.
    """

    kind: Literal["flip", "cut", "zeros"]
    at: tuple[int, ...]
    unnoticed: bool

    def apply_to(self, content: bytes) -> bytes:
        """The damaged bytes."""
        if self.kind == "cut":
            return content[: self.at[0]]
        damaged = np.frombuffer(content, dtype=np.uint8).copy()
        if self.kind == "zeros":
            damaged[self.at[0] : self.at[0] + _BLOCK] = 0
        for bit in self.at if self.kind == "flip" else ():
            damaged[bit // 8] ^= 1 << bit % 8
        return damaged.tobytes()

    def damage_file(self, path: Path) -> None:
        """Damage a file in place; it stays the same file."""
        status, content = path.stat(), self.apply_to(path.read_bytes())
        with path.open("r+b") as file:
            file.write(content)
            file.truncate()
        if self.unnoticed:
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@dataclass(frozen=True)
class FileReplacement:
    """Replacement of a file: a ``pipe`` without a writer, or a link and where it leads."""

    by: str

    def damage_file(self, path: Path) -> None:
        """Put it there."""
        path.unlink()
        if self.by == "pipe":
            os.mkfifo(path)
        else:
            path.symlink_to(path.name if self.by == "itself" else self.by)


REPLACED = tuple(map(FileReplacement, ("pipe", "/dev/zero", "/dev/full", "itself", "nothing")))


def drawn_damages(content: bytes, suffix: str, n: int, seed: list[int]) -> Iterator[Damage]:
    """So many damages to a file of this content, none of which leaves it as it is."""
    rng = np.random.default_rng(seed)
    first, last = header(content, suffix)
    while n:
        whole = rng.random() < 0.5
        low, high = (0, len(content)) if whole else (first, last)
        kind = rng.choice(["flip", "flip", "flip", "bits", "cut", "zeros"])
        unit = 8 if kind in ("flip", "bits") else 1
        at = rng.integers(low * unit, high * unit, 16 if kind == "bits" else 1)
        name = "flip" if kind == "bits" else kind
        damage = Damage(name, tuple(sorted(set(at.tolist()))), bool(rng.random() < 0.5))
        if damage.apply_to(content) != content:
            yield damage
            n -= 1


def header(content: bytes, suffix: str) -> tuple[int, int]:
    """Part of a file that describes the rest; all of it for what is all text."""
    size = len(content)
    if suffix == ".safetensors":
        return 0, min(size, 8 + int.from_bytes(content[:8], "little"))
    if suffix == ".parquet":
        return max(0, size - 8 - int.from_bytes(content[-8:-4], "little")), size
    if suffix == ".gguf":
        return 0, min(size, 16384)
    return 0, size
