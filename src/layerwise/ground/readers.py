"""Readers of arguments: lists, paths and names are converted, or refused with a sentence.

A type of an argument names its reader by ``Reads``. Plain numbers and texts have none: pydantic
reads them (``argument_types``).
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from layerwise.errors import UserError, short_repr

Reader = Callable[[str, Any], Any]
"""Makes a plain value of an argument's name and what was given for it, or raises."""
ARGUMENT = "argument"
"""The name of an argument in the context of a validation."""

# No list of layers, names or folders is longer.
MOST_ENTRIES = 100_000
_WHAT_IS_NO_LIST = (str, bytes, bytearray, set, frozenset, Mapping, os.PathLike)


@dataclass(frozen=True)
class Reads:
    """Metadata of a type: the function that reads its values in place of pydantic."""

    reader: Reader
    words: str  # the type, as signatures and help show it

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        """The schema of ``reader``; the context of a validation has the argument's name."""
        from pydantic import PlainValidator, ValidationInfo

        def read(value: Any, info: ValidationInfo) -> Any:
            return self.reader((info.context or {})[ARGUMENT], value)

        return PlainValidator(read).__get_pydantic_core_schema__(Any, handler)


def plain(value: Any) -> Any:
    """The plain value of a NumPy or torch scalar; anything else as it is."""
    if getattr(value, "ndim", None) == 0 and callable(getattr(value, "item", None)):
        return value.item()
    return value


def refuse(name: str, value: Any, expected: str) -> UserError:
    """The sentence for an argument that cannot be read."""
    kind = "None" if value is None else f"{short_repr(value)}, of type {type(value).__name__}"
    return UserError(f"Argument {name!r} is {kind}; expected {expected}.")


def plain_entries(value: Any) -> list[Any] | None:
    """The entries of a list, tuple, range, array or generator as plain values; None of no list.

    One more than ``MOST_ENTRIES`` are taken at most: a generator may have no end.
    """
    given = value.tolist() if getattr(value, "ndim", None) == 1 else value
    if isinstance(given, _WHAT_IS_NO_LIST) or not isinstance(given, Iterable):
        return None
    if getattr(value, "ndim", 1) != 1:
        return None
    return [plain(entry) for entry in itertools.islice(given, MOST_ENTRIES + 1)]


def entries(name: str, value: Any, expected: str) -> list[Any]:
    """The entries of a list; refuse other values, and lists that are too long."""
    given = plain_entries(value)
    if given is None:
        raise refuse(name, value, expected)
    if len(given) > MOST_ENTRIES:
        raise refuse_long(name, expected)
    return given


def refuse_long(name: str, expected: str) -> UserError:
    """The sentence for a list that is too long."""
    return UserError(
        f"Argument {name!r} has more than {MOST_ENTRIES:,} entries; expected {expected}."
    )


# Of usual file systems: bytes of a name, and of a path.
LONGEST_NAME, LONGEST_PATH = 255, 4095


def _path_text(name: str, value: Any, expected: str) -> str:
    given = plain(value)
    if not isinstance(given, (str, os.PathLike)) or isinstance(os.fspath(given), bytes):
        raise refuse(name, value, expected)
    return str(os.fspath(given))


def path(name: str, value: Any) -> str | Path:
    """Read the path of a file or folder; ``~`` is the user's home folder."""
    named = _path_text(name, value, "the path of a file or folder, as a text or a Path")
    refuse_path(name, named)
    if not named.startswith("~"):
        return value if isinstance(value, (str, Path)) else Path(named)
    try:
        return Path(named).expanduser()
    except RuntimeError:
        raise UserError(
            f"Argument {name!r} is {short_repr(named)}, but the home folder it begins with "
            f"is unknown; "
            "expected a path, which begins with './' if its name has a tilde."
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
            f"Argument {name!r} is {short_repr(value)}, which has characters that no path "
            f"can have; "
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
    named = _path_text(name, value, expected)
    if named.endswith((".jsonl", ".csv", ".parquet", ".toml")):
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
    expected = "a model's name: an alias, a path, or a hub id owner/name"
    named = _path_text(name, value, expected)
    if not named.strip():
        raise UserError(
            f"The model's name is empty ({named!r}); expected an alias such as smollm2-135m, a "
            "path ('.' for the folder that you are in), or a hub id owner/name."
        )
    refuse_path("model" if name == "name" else name, named)
    return named


AnyPath = Annotated[str | Path, Reads(path, "str | Path")]
"""The path of a file or folder."""
Paths = Annotated[
    str | Path | Sequence[str | Path], Reads(paths, "str | Path | Sequence[str | Path]")
]
Runs = Annotated[
    Sequence[str | Path] | Mapping[str, Sequence[str | Path]],
    Reads(runs, "Sequence[str | Path] | Mapping[str, Sequence[str | Path]]"),
]
"""Folders of runs, or groups of them by name."""
ModelName = Annotated[str | os.PathLike[str], Reads(model_name, "str | os.PathLike[str]")]
TaskName = Annotated[str, Reads(task_name, "str")]
