"""Places for results and pages: refused in a sentence before any work is done for them.

A file is replaced only by one of its kind, if layerwise wrote it: ``refuse_foreign`` stands before
every file that a user names. That a place can be written to is tried, for what the system says of
it is not always true: of a folder of the system itself, or one on another machine, it may allow its
owner anything and do nothing. How files are written is in ``atomic_files``.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from layerwise.errors import UserError
from layerwise.ground.readers import Reads
from layerwise.ground.readers import path as read_path
from layerwise.ground.regular_files import open_regular

from .atomic_files import LONGEST_NAME, disk_errors, refuse_special

PAGE, COMPARISON_PAGE, FIGURES = "report.html", "comparison.html", "figures"
SERIES_PAGE = "training.html"
PAGE_MARK = '<meta name="generator" content="layerwise">'
"""A mark in every page that layerwise writes."""
# Bytes at both ends of a file in which marks are looked for: a file to be replaced may be huge.
_ENDS = 2**14


def refuse_unusable_folder(path: Path, what: str = "a folder for the run") -> None:
    """Refuse a folder that cannot be made or written to, before any work is done for it."""
    above = _nearest(path)
    if above == path and not path.is_dir():
        raise UserError(f"{path} is a file: expected {what}; choose another path.")
    for one in (path, *path.parents):
        if one.is_symlink() and not one.exists():
            raise UserError(
                f"Cannot write {path} ({one} is a link to nothing): choose a folder that you may "
                "write to."
            )
    _refuse_unwritable(above, path)


def read_output_folder(name: str, value: Any) -> str | Path:
    """Read the path of a folder to write to, and refuse one that cannot be written."""
    place = read_path(name, value)
    refuse_unusable_folder(Path(place))
    return place


OutputFolder = Annotated[str | Path, Reads(read_output_folder, "str | Path")]


def refuse_unusable_file(path: Path) -> None:
    """Refuse a file that cannot be written, before any work is done for it."""
    above = _nearest(path)
    if above == path and path.is_dir():
        raise UserError(
            f"{path} is a folder: expected the name of the file to write, such as {path / PAGE}."
        )
    refuse_special(path)
    _refuse_unwritable(path.parent if above == path else above, path)


def refuse_foreign(path: Path, what: str, is_own: Callable[[Path], bool]) -> None:
    """Refuse a file that cannot be written, or would replace what layerwise did not write."""
    refuse_unusable_file(path)
    if not os.path.lexists(path):
        return
    try:
        own = is_own(path)
    except Exception:  # a link to nothing, or content that its reader never expects
        own = False
    if not own:
        raise UserError(
            f"{path} is no {what} that layerwise wrote, and would be replaced: choose another "
            "name, or delete the file first."
        )


def holds_mark(path: Path, *marks: str) -> bool:
    """True if one of some texts is near the beginning or the end of a file."""
    with open_regular(path) as file:
        ends = file.read(_ENDS)
        file.seek(max(file.tell(), os.fstat(file.fileno()).st_size - _ENDS))
        ends += file.read(_ENDS)
    return any(mark.encode() in ends for mark in marks)


def refuse_foreign_page(path: Path) -> None:
    """Refuse a page that cannot be written, or would replace another file than a page."""
    refuse_foreign(path, "page", lambda path: holds_mark(path, PAGE_MARK))
    if path.suffix.lower() not in (".html", ".htm"):
        raise UserError(
            f"{path} does not end as a page does: expected a name such as {PAGE}; choose one."
        )


def refuse_unusable_page(path: Path) -> None:
    """Refuse a page as ``refuse_foreign_page``, or one whose figures cannot stand beside it."""
    refuse_foreign_page(path)
    refuse_unusable_folder(path.parent / FIGURES, "a folder for figures")


def is_folder(path: Path) -> bool:
    """True if a folder is there; not if the system does not allow its name."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def _refuse_unwritable(above: Path, path: Path) -> None:
    """Refuse a path below a file, or below a folder in which no file can be made."""
    if not above.is_dir():
        raise UserError(
            f"Cannot write {path} ({above} is a file): choose a folder that you may write to."
        )
    with disk_errors(path), tempfile.TemporaryFile(dir=above):
        pass


def _nearest(path: Path) -> Path:
    """The path itself, or the first of the folders above it that is there."""
    above = path
    try:
        while not above.exists() and above != above.parent:
            if len(os.fsencode(above.name)) > LONGEST_NAME:
                raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
            above = above.parent
    except (OSError, ValueError) as error:
        raise UserError(
            f"{str(path)[:80]!r}... cannot be the name of a file or folder "
            f"({getattr(error, 'strerror', None) or error}): expected names of at most "
            f"{LONGEST_NAME} bytes; choose another path."
        ) from error
    return above
