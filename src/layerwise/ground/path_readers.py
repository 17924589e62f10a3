"""How paths are read, and names that can be paths: of files, folders, tasks and models."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from layerwise.errors import UserError, shown

from .readers import entries, plain, refuse

# Of usual file systems: bytes of a name, and of a path.
LONGEST_NAME, LONGEST_PATH = 255, 4095


def path(name: str, value: Any) -> str | Path:
    """Read the path of a file or folder; ``~`` is the user's home folder."""
    if not isinstance(value, (str, os.PathLike)) or isinstance(os.fspath(value), bytes):
        raise refuse(name, value, "the path of a file or folder, as a text or a Path")
    refuse_path(name, os.fspath(value))
    if not os.fspath(value).startswith("~"):
        return value if isinstance(value, (str, Path)) else Path(value)
    try:
        return Path(value).expanduser()
    except RuntimeError:
        raise UserError(
            f"Argument {name!r} is {shown(os.fspath(value))}, but the home folder it begins with "
            "is unknown; expected a path, which begins with './' if its name has a tilde."
        ) from None


def refuse_path(name: str, value: str) -> None:
    """Refuse what no file or folder can be called."""
    if not value.strip():
        raise UserError(
            f"Argument {name!r} is {value!r}; expected the path of a file or folder, '.' for the "
            "one that you are in."
        )
    try:
        encoded = os.fsencode(value)
    except UnicodeEncodeError:
        encoded = None
    if encoded is None or "\0" in value:
        raise UserError(
            f"Argument {name!r} is {shown(value)}, which has characters that no path can have; "
            "expected the path of a file or folder."
        )
    longest = max(map(len, encoded.split(os.fsencode(os.sep))))
    if longest > LONGEST_NAME or len(encoded) > LONGEST_PATH:
        raise UserError(
            f"Argument {name!r} is a path of {len(encoded)} bytes, with a name of {longest} "
            f"bytes in it; expected names of at most {LONGEST_NAME} bytes, and at most "
            f"{LONGEST_PATH} in all, so choose a shorter one."
        )


def task_name(
    name: str, value: Any, expected: str = "a task's name, or the path of a .jsonl file"
) -> str:
    """Read the name of a task that is to be loaded, or the path of its file."""
    given = plain(value)
    if not isinstance(given, (str, os.PathLike)) or isinstance(os.fspath(given), bytes):
        raise refuse(name, value, expected)
    named = str(os.fspath(given))
    if named.endswith((".jsonl", ".csv", ".parquet")):
        refuse_path(name, named)
    return named


def paths(name: str, value: Any) -> tuple[str | Path, ...]:
    """Read one path or several."""
    if isinstance(value, (str, os.PathLike)):
        return (path(name, value),)
    expected = "the path of a folder, or a list of them"
    return tuple(path(name, entry) for entry in entries(name, value, expected))


def runs(name: str, value: Any) -> tuple[str | Path, ...] | dict[str, tuple[str | Path, ...]]:
    """Read folders of runs, or groups of them by name."""
    if not isinstance(value, Mapping):
        return paths(name, value)
    for group in value:
        if not isinstance(group, str) or not group.strip():
            raise refuse(name, group, "a name for each group of runs, such as 'small'")
    return {str(group): paths(f"{name}[{group!r}]", some) for group, some in value.items()}


def model_name(name: str, value: Any) -> str:
    """Read the name of a model that can be loaded: an alias, a path, or a hub id."""
    if not isinstance(value, (str, os.PathLike)) or isinstance(os.fspath(value), bytes):
        raise refuse(name, value, "a model's name: an alias, a path, or a hub id owner/name")
    named = str(os.fspath(value))
    if not named.strip():
        raise UserError(
            f"The model's name is empty ({named!r}); expected an alias such as smollm2-135m, a "
            "path ('.' for the folder that you are in), or a hub id owner/name."
        )
    refuse_path("model" if name == "name" else name, named)
    return named
