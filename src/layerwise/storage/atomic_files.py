"""Files that are either whole or not there, and the sentence for a disk that refuses.

What is in the files is no matter here.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import os
import re
from pathlib import Path

import psutil

from layerwise.errors import UserError

# A process's number as systems give it.
_PROCESS = re.compile(r"[0-9]{1,9}")
# File systems allow names of so many bytes.
_LONGEST_NAME = 255
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def disk_error(error: OSError, path: Path) -> UserError:
    """The sentence for a file or folder that could not be written.

    Args:
        error: what the system said.
        path: the file or folder that was to be written.
    """
    if error.errno in _FULL:
        return UserError(
            f"No space left to write {path}: free some disk space and run again, "
            "or choose another folder."
        )
    reason = error.strerror or str(error)
    return UserError(f"Cannot write {path} ({reason}): choose a folder that you may write to.")


def refuse_unusable_folder(path: Path, what: str = "a folder for the run") -> None:
    """Refuse a folder that cannot be made or written to, before any work is done for it.

    Args:
        path: the folder; it need not be there.
        what: what it is for.

    Raises:
        UserError: if it is a file or lies below one, may not be written to, or has a name that
            the system does not allow.
    """
    above = _nearest(path)
    if above == path and not path.is_dir():
        raise UserError(f"{path} is a file: expected {what}; choose another path.")
    _refuse_unwritable(above, path)


def _refuse_unwritable(above: Path, path: Path) -> None:
    """Refuse a path below a file, or below a folder that may not be written to."""
    if not above.is_dir():
        raise UserError(
            f"Cannot write {path} ({above} is a file): choose a folder that you may write to."
        )
    if not os.access(above, os.W_OK | os.X_OK):
        raise UserError(f"Cannot write to {above}: choose a folder that you may write to.")


def refuse_unusable_file(path: Path) -> None:
    """Refuse a file that cannot be written, before any work is done for it.

    Raises:
        UserError: if it is a folder, or its folder cannot be made or written to.
    """
    above = _nearest(path)
    if above == path and path.is_dir():
        raise UserError(
            f"{path} is a folder: expected the name of the file to write, "
            f"such as {path / 'report.html'}."
        )
    _refuse_unwritable(path.parent if above == path else above, path)


def is_folder(path: Path) -> bool:
    """Whether a folder is there; not if the system does not allow its name."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def _nearest(path: Path) -> Path:
    """The path itself, or the first of the folders above it that is there.

    Raises:
        UserError: if a name in it is one that the system does not allow.
    """
    above = path
    try:
        while not above.exists() and above != above.parent:
            if len(os.fsencode(above.name)) > _LONGEST_NAME:
                raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
            above = above.parent
    except (OSError, ValueError) as error:
        raise UserError(
            f"{str(path)[:80]!r}... cannot be the name of a file or folder "
            f"({getattr(error, 'strerror', None) or error}): expected names of at most "
            f"{_LONGEST_NAME} bytes; choose another path."
        ) from error
    return above


def temporary_path(path: Path) -> Path:
    """Where ``path`` is written before it takes its name; hidden, and beside it."""
    name = f".{path.name}.{os.getpid()}.tmp"
    if len(os.fsencode(name)) > _LONGEST_NAME:
        digest = hashlib.sha256(os.fsencode(path.name)).hexdigest()
        name = f".{digest}.{os.getpid()}.tmp"
    return path.with_name(name)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that it is never seen half-written, whatever happens meanwhile.

    Raises:
        UserError: if the disk is full or the folder cannot be written; nothing is left behind.
    """
    temporary = temporary_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise disk_error(error, path) from error
    finally:
        _remove(temporary)


def remove_temporaries(folder: Path, name: str | None = None) -> None:
    """Remove what killed processes left half-written in ``folder``.

    Files of other processes that are still running stay, and so do those of other programs.

    Args:
        folder: the folder.
        name: only what was to become the file of this name; everything if None.
    """
    pattern = "*" if name is None else glob.escape(name)
    for leftover in folder.glob(f".{pattern}.*.tmp"):
        process = leftover.suffixes[-2].removeprefix(".")
        if _PROCESS.fullmatch(process) and not _is_another(int(process)):
            _remove(leftover)


def _is_another(process: int) -> bool:
    """Whether it is another process that is still running."""
    return process != os.getpid() and psutil.pid_exists(process)


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:  # in a folder that cannot be written nothing was left to remove
        return
