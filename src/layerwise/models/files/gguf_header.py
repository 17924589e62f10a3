"""The header of a GGUF file: its metadata and where its tensors are, read within fixed bounds.

Nothing that the file says is believed before it was compared with the file's own size.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from layerwise.errors import UserError
from layerwise.ground.regular_files import open_regular

# Far above what models have, far below what would take long or much memory to read.
_MAX_FIELDS = 10_000
_MAX_TENSORS = 200_000
_MAX_ELEMENTS = 2_000_000  # of all arrays together: the tokens and merges of a vocabulary
_MAX_STRING = 2**24
_MAX_NAME = 2**16
_MAX_DIMENSIONS = 4
_SCALARS = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q",
    12: "<d",
}  # fmt: skip
_STRING, _ARRAY = 8, 9


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a GGUF file."""

    name: str  # its name there
    shape: tuple[int, ...]  # its shape, rows first, as torch tells it
    kind: int  # the number of its ggml type
    start: int  # where its bytes begin in the file
    n_bytes: int  # how many there are


@dataclass(frozen=True)
class GgufHeader:
    """The header of a GGUF file."""

    metadata: dict[str, Any]  # its fields; of an array only the number of its elements
    tensors: dict[str, StoredTensor]  # its tensors by name

    def number(self, key: str) -> int | None:
        """A field that is a whole number, or None."""
        value = self.metadata.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else None


def read_gguf_header(path: Path) -> GgufHeader:
    """Read the header of a GGUF file and make sure that it can be true."""
    try:
        with open_regular(path) as file:
            if file.read(4) != b"GGUF":
                raise UserError(
                    f"{path} is no GGUF file: expected one that begins with 'GGUF', or a model "
                    "folder; give one of these, a hub id or an alias."
                )
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return _Reader(content).header()
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}): expected a GGUF file; check the "
            "path and its permissions."
        ) from error
    except _Damaged as error:
        raise UserError(
            f"{path.name} cannot be converted: its header does not fit the file ({error}); "
            "expected a whole GGUF file of version 2 or 3; fetch it again."
        ) from error


class _Damaged(Exception):
    """What is wrong with the header, in a few words."""


class _Reader:
    """Reads from the beginning of a file on; ``place`` is where it stands."""

    def __init__(self, content: mmap.mmap) -> None:
        self.content, self.place, self.elements = content, 4, 0

    def header(self) -> GgufHeader:
        version = self.scalar("<I")
        if version not in (2, 3):
            raise _Damaged(f"version {version}")
        n_tensors = self.count(_MAX_TENSORS, "tensors")
        n_fields = self.count(_MAX_FIELDS, "fields")
        metadata: dict[str, Any] = {}
        for _ in range(n_fields):
            key = self.text(_MAX_NAME)
            if key in metadata:
                raise _Damaged(f"field {key[:60]!r} twice")
            metadata[key] = self.value(self.scalar("<I"))
        rows = [self.tensor() for _ in range(n_tensors)]
        return GgufHeader(metadata, self.placed(rows, self.alignment(metadata)))

    def take(self, n_bytes: int) -> bytes:
        if n_bytes > len(self.content) - self.place:
            raise _Damaged("it goes on after the end of the file")
        self.place += n_bytes
        return self.content[self.place - n_bytes : self.place]

    def scalar(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def count(self, limit: int, what: str) -> int:
        number = self.scalar("<Q")
        if number > limit:
            raise _Damaged(f"{number} {what}, more than {limit}")
        return number

    def text(self, limit: int = _MAX_STRING) -> str:
        try:
            return self.take(self.count(limit, "bytes in a text")).decode("utf-8")
        except UnicodeDecodeError as error:
            raise _Damaged("a text that is not UTF-8") from error

    def value(self, kind: int) -> Any:
        if kind in _SCALARS:
            return self.scalar(_SCALARS[kind])
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY:
            raise _Damaged(f"a field of the unknown type {kind}")
        return self.array()

    def array(self) -> int:
        kind, length = self.scalar("<I"), self.count(_MAX_ELEMENTS, "elements")
        self.elements += length
        if self.elements > _MAX_ELEMENTS:
            raise _Damaged(f"more than {_MAX_ELEMENTS} elements in its arrays")
        if kind in _SCALARS:
            self.take(length * struct.calcsize(_SCALARS[kind]))
        elif kind == _STRING:
            for _ in range(length):
                self.take(self.count(_MAX_STRING, "bytes in a text"))
        else:
            raise _Damaged(f"an array of type {kind}")
        return length

    def alignment(self, metadata: dict[str, Any]) -> int:
        alignment = metadata.get("general.alignment", 32)
        if type(alignment) is not int or not 0 < alignment <= 2**20 or alignment & (alignment - 1):
            raise _Damaged(f"an alignment of {str(alignment)[:20]}")
        return alignment

    def tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self.text(_MAX_NAME)
        n_dimensions = self.scalar("<I")
        if not 0 < n_dimensions <= _MAX_DIMENSIONS:
            raise _Damaged(f"a tensor of {n_dimensions} dimensions")
        # The format tells the innermost dimension first.
        shape = tuple(self.scalar("<Q") for _ in range(n_dimensions))[::-1]
        return name, shape, self.scalar("<I"), self.scalar("<Q")

    def placed(
        self, rows: list[tuple[str, tuple[int, ...], int, int]], alignment: int
    ) -> dict[str, StoredTensor]:
        first = -(-self.place // alignment) * alignment
        tensors = {}
        for name, shape, kind, offset in rows:
            if name in tensors:
                raise _Damaged(f"tensor {name[:60]!r} twice")
            if offset % alignment:
                raise _Damaged(f"tensor {name[:60]!r} at an odd place")
            tensors[name] = StoredTensor(name, shape, kind, first + offset, n_bytes_of(shape, kind))
        self.refuse_wrong_places(tensors.values())
        return tensors

    def refuse_wrong_places(self, tensors: Any) -> None:
        end = 0
        for tensor in sorted(tensors, key=lambda stored: stored.start):
            if tensor.start < end:
                raise _Damaged(f"tensor {tensor.name[:60]!r} lies over another one")
            end = tensor.start + tensor.n_bytes
            if end > len(self.content):
                raise _Damaged(f"tensor {tensor.name[:60]!r} ends after the end of the file")


def n_bytes_of(shape: tuple[int, ...], kind: int) -> int:
    """Bytes of a tensor of that shape and ggml type."""
    import gguf

    sizes = {int(known): size for known, size in gguf.GGML_QUANT_SIZES.items()}
    if kind not in sizes:
        raise _Damaged(f"a tensor of the unknown type {kind}")
    block, block_bytes = sizes[kind]
    if not all(shape) or shape[-1] % block:
        raise _Damaged(f"a tensor of shape {shape} in blocks of {block}")
    return prod(shape) // block * block_bytes


def layers_of(names: Iterator[str] | dict[str, StoredTensor]) -> set[int]:
    """The numbers of the blocks that tensors belong to, as ``blk.3.ffn_up.weight`` tells it."""
    pieces = (name.split(".", 2) for name in names if name.startswith("blk."))
    return {int(p[1]) for p in pieces if len(p) > 1 and p[1].isdecimal() and len(p[1]) < 10}
