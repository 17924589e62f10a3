"""A part of a run's work as a file: a table behind a hash that binds it to its run and name.

Beside the hash stands what the part was made under, as JSON in the same line.

Where these files lie, and which run is which, is not known here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from layerwise.errors import UserError
from layerwise.ground.regular_files import read_regular
from layerwise.storage.atomic_files import write_atomically
from layerwise.storage.parquet import parsed, to_bytes

_HEAD = b"layerwise part "
_LONGEST_HEAD = 10_000


def write_part_file(
    path: Path, run: str, name: str, table: pa.Table, environment: Mapping[str, Any]
) -> None:
    """Write a part atomically."""
    write_bytes_part(path, run, name, to_bytes(table), environment)


def write_bytes_part(
    path: Path, run: str, name: str, content: bytes, environment: Mapping[str, Any]
) -> None:
    """Write a part that is no table; arguments and errors are those of ``write_part_file``."""
    under = b" " + json.dumps(environment).encode()
    head = _HEAD + _digest(run, name, under, content) + under
    write_atomically(path, head + b"\n" + content)


def environment_of(path: Path) -> dict[str, Any] | None:
    """What a part was made under; None of one that an earlier version wrote, or that is damaged."""
    try:
        with path.open("rb") as file:
            text = file.readline(_LONGEST_HEAD).removeprefix(_HEAD).partition(b" ")[2]
        found = json.loads(text)
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def read_part_file(path: Path, run: str, name: str) -> pa.Table:
    """Read a part as it was written."""
    content = read_bytes_part(path, run, name)
    try:
        return parsed(path, content)
    except (OSError, UserError, pa.ArrowException) as error:
        raise _no_part(path) from error


def read_bytes_part(path: Path, run: str, name: str) -> bytes:
    """Read a part that is no table; arguments and errors are those of ``read_part_file``."""
    try:
        head, _, content = read_regular(path).partition(b"\n")
    except OSError as error:
        raise _no_part(path) from error
    digest, blank, environment = head.removeprefix(_HEAD).partition(b" ")
    # Parts of earlier versions say nothing of what they were made under.
    if digest != _digest(run, name, blank + environment, content):
        raise _no_part(path)
    return content


def _digest(run: str, name: str, *contents: bytes) -> bytes:
    digest = hashlib.sha256(f"{run}\0{name}\0".encode(errors="surrogatepass"))
    for content in contents:
        digest.update(content)
    return digest.hexdigest().encode()


def _no_part(path: Path) -> UserError:
    return UserError(
        f"{path} is missing, damaged or of another run: expected a part that this run wrote; "
        "give the same command again, and what is missing is made again."
    )
