"""Files that are either whole or not there, and the sentence for a disk that refuses.

What is in the files is no matter here.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from layerwise.errors import UserError

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


def temporary_path(path: Path) -> Path:
    """Where ``path`` is written before it takes its name; hidden, and beside it."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


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


def remove_temporaries(folder: Path) -> None:
    """Remove what a killed process left half-written in ``folder``."""
    for leftover in folder.glob(".*.tmp"):
        _remove(leftover)


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:  # in a folder that cannot be written nothing was left to remove
        return
