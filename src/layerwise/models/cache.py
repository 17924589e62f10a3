"""The cache folder: hashes of files, small records that save work at the next load, whole folders.

What is recorded is the business of the callers; losing the folder loses nothing but time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import platformdirs

from layerwise.errors import UserError

_STALE_AFTER = 3600.0  # seconds


def cache_dir() -> Path:
    """Where converted models and records are kept; ``LAYERWISE_CACHE`` overrides it."""
    given = os.environ.get("LAYERWISE_CACHE")
    return Path(given or platformdirs.user_cache_dir("layerwise")).expanduser()


def key_of(parts: Iterable[str]) -> str:
    """A file name for a record that depends on all ``parts``, in their order."""
    return hashlib.sha256(json.dumps(list(parts)).encode()).hexdigest()


def read_record(kind: str, key: str) -> dict[str, Any] | None:
    """A record, or None if there is none that can be read."""
    try:
        record = json.loads((cache_dir() / kind / f"{key}.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def write_record(kind: str, key: str, record: dict[str, Any]) -> None:
    """Keep a record; where the cache folder cannot be written, nothing is kept."""
    folder = cache_dir() / kind
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=folder, suffix=".partial")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(record, file)
            os.replace(name, folder / f"{key}.json")
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal, remembered by path, size and time of change."""
    path = path.resolve()
    status = path.stat()
    stamp = [status.st_size, status.st_mtime_ns, status.st_ino]
    key = key_of([str(path)])
    record = read_record("hashes", key)
    if record and record.get("stamp") == stamp and isinstance(record.get("sha256"), str):
        return record["sha256"]
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    write_record("hashes", key, {"stamp": stamp, "sha256": digest})
    return digest


def folder_sha256(folder: Path) -> str:
    """SHA-256 of a model folder: of the names and contents of all files that matter to it."""
    matters = {".json", ".safetensors", ".model", ".txt", ".tiktoken"}
    files = sorted(path for path in folder.iterdir() if path.suffix in matters)
    return key_of(part for path in files for part in (path.name, file_sha256(path)))


@contextlib.contextmanager
def complete_or_nothing(folder: Path) -> Iterator[Path]:
    """A folder to fill, which becomes ``folder`` once it is complete and is removed otherwise.

    Raises:
        UserError: if nothing can be written there.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _sweep_leftovers(folder.parent)
        partial = Path(tempfile.mkdtemp(prefix="partial-", dir=folder.parent))
    except OSError as error:
        raise _unwritable(folder, error) from error
    try:
        yield partial
        # Another process may have been faster; its folder has the same content.
        if not folder.is_dir():
            partial.rename(folder)
    except OSError as error:
        raise _unwritable(folder, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _sweep_leftovers(parent: Path) -> None:
    for leftover in parent.glob("partial-*"):
        if time.time() - leftover.stat().st_mtime > _STALE_AFTER:
            shutil.rmtree(leftover, ignore_errors=True)


def _unwritable(folder: Path, error: OSError) -> UserError:
    return UserError(
        f"The converted model cannot be written to {folder.parent} ({error.strerror or error}): "
        "expected a writable folder with room for its weights; make room, or set "
        "LAYERWISE_CACHE to another folder."
    )
