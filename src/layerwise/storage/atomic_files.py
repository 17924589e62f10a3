"""Files that are either whole or not there, and the sentence for a disk that refuses."""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from pathlib import Path

import psutil

from layerwise.errors import UserError

# File systems allow names of so many bytes.
LONGEST_NAME = 255
_staying: ContextVar[Path | None] = ContextVar("staying", default=None)
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""Error numbers of a full disk."""


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Tell in a sentence that a file or folder could not be written."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise UserError(
                f"No space left to write {path}: free some disk space and run again, "
                "or choose another folder."
            ) from error
        raise UserError(
            f"Cannot write {path} ({error.strerror or error}): choose a folder that you may write "
            "to."
        ) from error


def refuse_special(path: Path) -> None:
    """Refuse a device or a pipe, or what a process has open: a file of its name replaces it."""
    try:
        opened = path.is_symlink() and os.readlink(path).startswith("/proc/")
        special = opened or (path.exists() and not path.is_file() and not path.is_dir())
    except (OSError, ValueError):
        special = False
    if special:
        raise UserError(
            f"{path} is no file but a device or pipe, which would be replaced: expected the name "
            "of a file; choose another path."
        )


def temporary_path(path: Path) -> Path:
    """Path that ``path`` is written to before it takes its name; hidden, and beside it."""
    name = f".{path.name}.{os.getpid()}.tmp"
    if len(os.fsencode(name)) > LONGEST_NAME:
        digest = hashlib.sha256(os.fsencode(path.name)).hexdigest()
        name = f".{digest}.{os.getpid()}.tmp"
    return path.with_name(name)


@contextlib.contextmanager
def keep_deleted_folders_deleted(folder: Path) -> Iterator[None]:
    """Keep writes within the context from re-creating a deleted folder."""
    # A folder that held a file or two of a run, and nothing else of it, could not be gone on in.
    before = _staying.set(folder)
    try:
        yield
    finally:
        _staying.reset(before)


def deleted_folder_error(folder: Path) -> UserError:
    """The sentence for a run's folder that is gone."""
    return UserError(
        f"{folder} was deleted or moved while the run wrote to it, and what it held is lost "
        "there: expected the folder to stay until the run ends; give the same command again."
    )


def write_atomically(path: Path, content: bytes | Iterable[bytes]) -> None:
    """Write a file so that it is never seen half-written; content may come in parts."""
    refuse_special(path)
    temporary, staying = temporary_path(path), _staying.get()
    within = staying is not None and path.is_relative_to(staying)
    try:
        with disk_errors(path):
            if not within:
                path.parent.mkdir(parents=True, exist_ok=True)
            elif path.parent != staying:
                path.parent.mkdir(exist_ok=True)
            with open(temporary, "wb") as file:
                file.writelines([content] if isinstance(content, bytes) else content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
    except UserError as error:
        if staying is not None and within and not staying.exists():
            raise deleted_folder_error(staying) from error
        raise
    finally:
        _remove(temporary)


def remove_temporaries(folder: Path, name: str | None = None) -> None:
    """Remove what killed processes left half-written in ``folder``."""
    # Files of other processes that are still running stay, and so do those of other programs.
    pattern = "*" if name is None else glob.escape(name)
    for leftover in folder.glob(f".{pattern}.*.tmp"):
        process = leftover.suffixes[-2].removeprefix(".")
        if not re.fullmatch(r"[0-9]{1,9}", process):
            continue
        if int(process) == os.getpid() or not psutil.pid_exists(int(process)):
            _remove(leftover)


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:  # in a folder that cannot be written nothing was left to remove
        return
