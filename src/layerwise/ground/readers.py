"""How numbers, names and lists are read: what is taken, what is made of it, what is refused."""

from __future__ import annotations

import itertools
import math
import operator
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from layerwise.errors import UserError, shown, unknown_name

Reader = Callable[[str, Any], Any]

# No list of layers, names or folders is longer; a generator may have no end.
MOST_ENTRIES = 100_000
# What a column of whole numbers, and every generator of random numbers, can hold.
LARGEST = 2**63 - 1
_WHAT_IS_NO_LIST = (str, bytes, bytearray, set, frozenset, Mapping, os.PathLike)


def plain(value: Any) -> Any:
    """The plain value of a NumPy or torch scalar; anything else as it is."""
    if getattr(value, "ndim", None) == 0 and callable(getattr(value, "item", None)):
        return value.item()
    return value


def refuse(name: str, value: Any, expected: str) -> UserError:
    """The sentence for an argument that cannot be read."""
    kind = "None" if value is None else f"{shown(value)}, of type {type(value).__name__}"
    return UserError(f"Argument {name!r} is {kind}; expected {expected}.")


def whole(example: int, least: int | None = None, most: int = LARGEST, unit: str = "") -> Reader:
    """Read a whole number; neither a bool nor a float is one, even if it has no fraction."""
    expected = f"a whole number, such as {example}{unit}"

    def read(name: str, value: Any) -> int:
        given = plain(value)
        if isinstance(given, (bool, float, complex)):
            raise refuse(name, value, expected)
        try:
            number = operator.index(given)
        except TypeError:
            raise refuse(name, value, expected) from None
        if abs(number) > LARGEST:
            raise UserError(
                f"Argument {name!r} is a number of {number.bit_length()} bits; expected "
                f"{expected}, of at most 63 bits."
            )
        if number > most or (least is not None and number < least):
            bound = f"at most {most:,}" if number > most else f"at least {least:,}"
            raise UserError(f"Argument {name!r} is {number:,}; expected {expected}, {bound}.")
        return number

    return read


limit = whole(100, least=1, unit=" items")
memory_budget = whole(2**30, least=2**20, unit=" bytes")
# More give the ends of an interval no more exactly.
resamples = whole(10_000, most=100_000, unit=" bootstrap samples")
seed = whole(0, least=0)


def real(example: float, least: float = -math.inf, most: float = math.inf) -> Reader:
    """Read a finite number."""

    def read(name: str, value: Any) -> float:
        expected = f"a finite number, such as {example}"
        given = plain(value)
        if isinstance(given, (bool, str, bytes)):
            raise refuse(name, value, expected)
        try:
            number = float(given)
        except (TypeError, ValueError, OverflowError):
            raise refuse(name, value, expected) from None
        if not math.isfinite(number):
            raise UserError(f"Argument {name!r} is {number}; expected {expected}.")
        if not least <= number <= most:
            bound = f"at most {most:,}" if number > most else f"at least {least:,}"
            raise UserError(f"Argument {name!r} is {number:,}; expected {expected}, {bound}.")
        return number

    return read


def truth(name: str, value: Any) -> bool:
    """Read True or False."""
    given = plain(value)
    if not isinstance(given, bool):
        raise refuse(name, value, "True or False")
    return given


def text(example: str) -> Reader:
    """Read a name."""

    def read(name: str, value: Any) -> str:
        given = plain(value)
        if not isinstance(given, str):
            raise refuse(name, value, f"a text, such as {example!r}")
        return str(given)

    return read


def entries(name: str, value: Any, expected: str) -> Iterator[Any]:
    """The entries of a list, tuple, range, array or generator, as plain values."""
    listed = value.tolist() if getattr(value, "ndim", None) == 1 else value
    if isinstance(listed, _WHAT_IS_NO_LIST) or not isinstance(listed, Iterable):
        raise refuse(name, value, expected)
    if getattr(value, "ndim", 1) != 1:
        raise refuse(name, value, expected)
    given = list(itertools.islice(listed, MOST_ENTRIES + 1))
    if len(given) > MOST_ENTRIES:
        raise UserError(
            f"Argument {name!r} has more than {MOST_ENTRIES:,} entries; expected {expected}."
        )
    return map(plain, given)


def texts(example: str, *, none: bool = False) -> Reader:
    """Read one name or several, each once; none at all only if ``none``."""
    expected = f"a text or a list of texts, such as {example!r}"

    def read(name: str, value: Any) -> tuple[str, ...]:
        single = plain(value)
        if isinstance(single, str):
            return (str(single),)
        given = tuple(entries(name, value, expected))
        for text in given:
            if not isinstance(text, str):
                raise refuse(name, text, expected)
        if not given and not none:
            raise UserError(
                f"Argument {name!r} is empty; expected {expected}: name at least one, or leave "
                "it out."
            )
        return tuple(dict.fromkeys(map(str, given)))

    return read


def one_of(what: str, known: Sequence[str]) -> Reader:
    """Read one of some names."""
    return _known(what, known, text(known[0]))


def some_of(what: str, known: Sequence[str], *, none: bool = False) -> Reader:
    """As ``one_of``, of one name or several; none at all only if ``none``."""
    return _known(what, known, texts(known[0], none=none))


def _known(what: str, known: Sequence[str], read_names: Reader) -> Reader:
    def read(name: str, value: Any) -> str | tuple[str, ...]:
        given = read_names(name, value)
        for element in (given,) if isinstance(given, str) else given:
            if element not in known:
                raise unknown_name(what, element, known)
        return given

    return read


def numbers(example: str, *, names: bool = False) -> Reader:
    """Read whole numbers, and if ``names`` also names such as ``encoder.3``."""
    expected = f"a list of whole numbers, such as {example}"

    def read(name: str, value: Any) -> tuple[int | str, ...]:
        parsed = []
        for entry in entries(name, value, expected):
            if names and isinstance(entry, str):
                parsed.append(str(entry))
                continue
            try:
                parsed.append(whole(0)(name, entry))
            except UserError:
                raise refuse(name, entry, expected) from None
        return tuple(parsed)

    return read


def from_the_end(name: str, value: Any) -> str | tuple[int | str, ...]:
    """Read positions of a prompt: ``"all"``, or numbers counted from its end."""
    return value if isinstance(value, str) else numbers("[-2, -1], or 'all'")(name, value)


def groups(name: str, value: Any) -> dict[str, tuple[int | str, ...]]:
    """Read groups of layers by name."""
    if not isinstance(value, Mapping) or not all(isinstance(element, str) for element in value):
        raise refuse(name, value, "layers by the name of their group, such as {'early': [0, 1]}")
    read = numbers("[0, 1]")
    return {str(group): read(f"{name}[{group!r}]", some) for group, some in value.items()}


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
            f"Argument {name!r} is {shown(named)}, but the home folder it begins with is unknown; "
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
