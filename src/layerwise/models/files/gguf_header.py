"""A GGUF file's metadata and tensors, read by the gguf library within fixed bounds.

The library believes what a header says of sizes; these are compared with the file's own before.
"""

from __future__ import annotations

import contextlib
import mmap
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf

from layerwise.errors import UserError, one_line
from layerwise.ground.regular_files import open_regular

# Far above what models have, far below what would take long or much memory to read.
_MAX_FIELDS = 10_000
_MAX_TENSORS = 200_000
_MAX_ELEMENTS = 2_000_000  # of all arrays together: the tokens and merges of a vocabulary
_MAX_STRING = 2**24
_SCALARS = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q",
    12: "<d",
}  # fmt: skip
_STRING, _ARRAY = 8, 9


@dataclass(frozen=True)
class GgufHeader:
    """The header of a GGUF file."""

    metadata: dict[str, Any]  # its fields; of an array only the number of its elements
    tensors: dict[str, gguf.ReaderTensor]  # its tensors by name

    def number(self, key: str) -> int | None:
        """A field that is a whole number, or None."""
        value = self.metadata.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, rows first, as torch tells it."""
        return tuple(map(int, reversed(self.tensors[name].shape)))


def refuse_other_files(path: Path) -> None:
    """Accept only a file that begins as GGUF does."""
    with _refusals(path), open_regular(path) as file:
        if file.read(4) != b"GGUF":
            raise UserError(
                f"{path} is no GGUF file: expected one that begins with 'GGUF', or a model "
                "folder; give one of these, a hub id or an alias."
            )


def read_gguf_header(path: Path) -> GgufHeader:
    """Read the header of a GGUF file and make sure that it can be true."""
    with _refusals(path):
        with open_regular(path) as file:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        with content:
            metadata = _Reader(content).metadata()
        reader = gguf.GGUFReader(path)
        _refuse_wrong_places(reader)
    return GgufHeader(metadata, {tensor.name: tensor for tensor in reader.tensors})


@contextlib.contextmanager
def _refusals(path: Path) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}): expected a GGUF file; check the "
            "path and its permissions."
        ) from error
    except Exception as error:
        raise UserError(
            f"{path.name} cannot be converted: its header does not fit the file "
            f"({one_line(error)}); expected a whole GGUF file of version 2 or 3; fetch it again."
        ) from error


def _refuse_wrong_places(reader: gguf.GGUFReader) -> None:
    """Accept only tensors that have numbers, of which none are another's too."""
    end, alignment = 0, int(reader.alignment)
    if alignment < 1 or alignment & (alignment - 1):
        raise ValueError(f"an alignment of {alignment}")
    for tensor in sorted(reader.tensors, key=lambda stored: stored.data_offset):
        if not tensor.n_elements or tensor.data_offset % alignment:
            raise ValueError(f"tensor {tensor.name[:60]!r} is empty or at an odd place")
        if tensor.data_offset < end:
            raise ValueError(f"tensor {tensor.name[:60]!r} lies over another one")
        end = tensor.data_offset + tensor.n_bytes


class _Reader:
    """Reads from the beginning of a file on; ``place`` is where it stands."""

    def __init__(self, content: mmap.mmap) -> None:
        self.content, self.place, self.elements = content, 4, 0

    def metadata(self) -> dict[str, Any]:
        version = self.scalar("<I")
        if version not in (2, 3):
            raise ValueError(f"version {version}")
        self.count(_MAX_TENSORS, "tensors")
        n_fields = self.count(_MAX_FIELDS, "fields")
        fields: dict[str, Any] = {}
        for _ in range(n_fields):
            name = self.text()
            if name in fields:  # of which some releases of the library rename the second
                raise ValueError(f"the field {name[:60]!r} is there twice")
            fields[name] = self.value(self.scalar("<I"))
        return fields

    def take(self, n_bytes: int) -> bytes:
        if n_bytes > len(self.content) - self.place:
            raise ValueError("it goes on after the end of the file")
        self.place += n_bytes
        return self.content[self.place - n_bytes : self.place]

    def scalar(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def count(self, limit: int, what: str) -> int:
        number = self.scalar("<Q")
        if number > limit:
            raise ValueError(f"{number} {what}, more than {limit}")
        return number

    def text(self) -> str:
        return self.take(self.count(_MAX_STRING, "bytes in a text")).decode("utf-8")

    def value(self, kind: int) -> Any:
        if kind in _SCALARS:
            return self.scalar(_SCALARS[kind])
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY:
            raise ValueError(f"a field of the unknown type {kind}")
        return self.array()

    def array(self) -> int:
        kind, length = self.scalar("<I"), self.count(_MAX_ELEMENTS, "elements")
        self.elements += length
        if self.elements > _MAX_ELEMENTS:
            raise ValueError(f"more than {_MAX_ELEMENTS} elements in its arrays")
        if kind in _SCALARS:
            self.take(length * struct.calcsize(_SCALARS[kind]))
        elif kind == _STRING:
            for _ in range(length):
                self.take(self.count(_MAX_STRING, "bytes in a text"))
        else:  # the library would follow arrays in arrays as deep as they go
            raise ValueError(f"an array of type {kind}")
        return length


def block_numbers(names: Iterable[str]) -> set[int]:
    """The numbers of the blocks that tensors belong to, as ``blk.3.ffn_up.weight`` tells it."""
    pieces = (name.split(".", 2) for name in names if name.startswith("blk."))
    return {int(p[1]) for p in pieces if len(p) > 1 and p[1].isdecimal() and len(p[1]) < 10}
