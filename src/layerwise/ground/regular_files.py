"""Files that others made, opened only if they are regular: a pipe would wait, a device not end.

Links are followed.
"""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path

# Opening a pipe waits for whoever writes to it, unless the system is asked not to.
_WITHOUT_WAITING = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


class IrregularFileError(OSError):
    """A pipe, a device or a socket stands where a file is to be read."""

    def __init__(self, path: Path) -> None:
        super().__init__(errno.EINVAL, "a pipe or a device, no ordinary file", str(path))


def refuse_irregular(path: Path) -> None:
    """Refuse what would wait or never end, for libraries that open a path themselves."""
    _refuse_mode(path, os.stat(path).st_mode)


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file to read its bytes."""
    refuse_irregular(path)  # for opening alone can already do something to a device
    file = open(os.open(path, os.O_RDONLY | _WITHOUT_WAITING), "rb")  # noqa: SIM115
    try:
        _refuse_mode(path, os.fstat(file.fileno()).st_mode)
    except BaseException:
        file.close()
        raise
    return file


def read_regular(path: Path) -> bytes:
    """The bytes of a regular file; errors are those of ``open_regular``."""
    with open_regular(path) as file:
        return file.read()


def _refuse_mode(path: Path, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise IrregularFileError(path)
