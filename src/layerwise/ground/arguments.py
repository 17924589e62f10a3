"""Arguments of the public functions, checked and made plain before any work is done.

Every option goes by one name wherever it is taken, and has one reader here: NumPy and torch
scalars become plain numbers, arrays and generators tuples, and what cannot be read is refused in
a sentence. Models, tasks and results have their readers in ``arguments``; which values an
analysis can do something with is the analysis' business.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import math
import operator
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from layerwise.errors import UserError, shown

Reader = Callable[[str, Any], Any]
_P = ParamSpec("_P")
_R = TypeVar("_R")

# No list of layers, names or folders is longer; a generator may have no end.
MOST_ENTRIES = 100_000
# What a column of whole numbers, and every generator of random numbers, can hold.
LARGEST = 2**63 - 1
# Of usual file systems: bytes of a name, and of a path.
LONGEST_NAME, LONGEST_PATH = 255, 4095
_WHAT_IS_NO_LIST = (str, bytes, bytearray, set, frozenset, Mapping, os.PathLike)


def plain(value: Any) -> Any:
    """The plain value of a NumPy or torch scalar; anything else as it is."""
    if getattr(value, "ndim", None) == 0 and callable(getattr(value, "item", None)):
        return value.item()
    return value


def refuse(name: str, value: Any, expected: str) -> UserError:
    """The sentence for an argument that cannot be read.

    Args:
        name: the argument's.
        value: what was given.
        expected: what would be right, with an example.
    """
    kind = "None" if value is None else f"{shown(value)}, of type {type(value).__name__}"
    return UserError(f"Argument {name!r} is {kind}; expected {expected}.")


def whole(example: int) -> Reader:
    """Read a whole number; neither a bool nor a float is one, even if it has no fraction."""

    def read(name: str, value: Any) -> int:
        expected = f"a whole number, such as {example}"
        found = plain(value)
        if isinstance(found, (bool, float, complex)):
            raise refuse(name, value, expected)
        try:
            number = operator.index(found)
        except TypeError:
            raise refuse(name, value, expected) from None
        if abs(number) > LARGEST:
            raise UserError(
                f"Argument {name!r} is a number of {number.bit_length()} bits; expected "
                f"{expected}, of at most 63 bits."
            )
        return number

    return read


def seed(name: str, value: Any) -> int:
    """Read a seed."""
    number = whole(0)(name, value)
    if number < 0:
        raise UserError(f"The seed is {number}; expected 0 or a positive whole number.")
    return number


def real(example: float) -> Reader:
    """Read a finite number."""

    def read(name: str, value: Any) -> float:
        expected = f"a finite number, such as {example}"
        found = plain(value)
        if isinstance(found, (bool, str, bytes)):
            raise refuse(name, value, expected)
        try:
            number = float(found)
        except (TypeError, ValueError, OverflowError):
            raise refuse(name, value, expected) from None
        if not math.isfinite(number):
            raise UserError(f"Argument {name!r} is {number}; expected {expected}.")
        return number

    return read


def truth(name: str, value: Any) -> bool:
    """Read True or False."""
    found = plain(value)
    if not isinstance(found, bool):
        raise refuse(name, value, "True or False")
    return found


def text(example: str) -> Reader:
    """Read a name."""

    def read(name: str, value: Any) -> str:
        found = plain(value)
        if not isinstance(found, str):
            raise refuse(name, value, f"a text, such as {example!r}")
        return str(found)

    return read


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
    """Refuse what no file or folder can be called.

    Args:
        name: what it is the path of.
        value: the path.

    Raises:
        UserError: if it is empty, too long, or has characters that no path can have.
    """
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


def entries(name: str, value: Any, expected: str) -> Iterator[Any]:
    """The entries of a list, tuple, range, array or generator, as plain values.

    Raises:
        UserError: if it is none of these, or too long.
    """
    listed = value.tolist() if getattr(value, "ndim", None) == 1 else value
    if isinstance(listed, _WHAT_IS_NO_LIST) or not isinstance(listed, Iterable):
        raise refuse(name, value, expected)
    if getattr(value, "ndim", 1) != 1:
        raise refuse(name, value, expected)
    found = list(itertools.islice(listed, MOST_ENTRIES + 1))
    if len(found) > MOST_ENTRIES:
        raise UserError(
            f"Argument {name!r} has more than {MOST_ENTRIES:,} entries; expected {expected}."
        )
    return map(plain, found)


def texts(example: str, *, none: bool = False) -> Reader:
    """Read one name or several; none at all only if ``none``."""
    expected = f"a text or a list of texts, such as {example!r}"

    def read(name: str, value: Any) -> tuple[str, ...]:
        single = plain(value)
        if isinstance(single, str):
            return (str(single),)
        found = tuple(entries(name, value, expected))
        for one in found:
            if not isinstance(one, str):
                raise refuse(name, one, expected)
        if not found and not none:
            raise UserError(
                f"Argument {name!r} is empty; expected {expected}: name at least one, or leave "
                "it out."
            )
        return tuple(map(str, found))

    return read


def numbers(example: str, *, names: bool = False) -> Reader:
    """Read whole numbers, and if ``names`` also names such as ``encoder.3``."""
    expected = f"a list of whole numbers, such as {example}"

    def read(name: str, value: Any) -> tuple[int | str, ...]:
        found = []
        for one in entries(name, value, expected):
            if names and isinstance(one, str):
                found.append(str(one))
                continue
            try:
                found.append(whole(0)(name, one))
            except UserError:
                raise refuse(name, one, expected) from None
        return tuple(found)

    return read


def from_the_end(name: str, value: Any) -> str | tuple[int | str, ...]:
    """Read positions of a prompt: ``"all"``, or numbers counted from its end."""
    return value if isinstance(value, str) else numbers("[-2, -1], or 'all'")(name, value)


def task_name(
    name: str, value: Any, expected: str = "a task's name, or the path of a .jsonl file"
) -> str:
    """Read the name of a task that is to be loaded, or the path of its file."""
    found = plain(value)
    if not isinstance(found, (str, os.PathLike)) or isinstance(os.fspath(found), bytes):
        raise refuse(name, value, expected)
    named = str(os.fspath(found))
    if named.endswith(".jsonl"):
        refuse_path(name, named)
    return named


def paths(name: str, value: Any) -> tuple[str | Path, ...]:
    """Read one path or several."""
    if isinstance(value, (str, os.PathLike)):
        return (path(name, value),)
    expected = "the path of a folder, or a list of them"
    return tuple(path(name, one) for one in entries(name, value, expected))


def runs(name: str, value: Any) -> tuple[str | Path, ...] | dict[str, tuple[str | Path, ...]]:
    """Read folders of runs, or groups of them by name."""
    if not isinstance(value, Mapping):
        return paths(name, value)
    for group in value:
        if not isinstance(group, str) or not group.strip():
            raise refuse(name, group, "a name for each group of runs, such as 'small'")
    return {str(group): paths(f"{name}[{group!r}]", some) for group, some in value.items()}


def groups(name: str, value: Any) -> dict[str, tuple[int | str, ...]]:
    """Read groups of layers by name."""
    if not isinstance(value, Mapping) or not all(isinstance(one, str) for one in value):
        raise refuse(name, value, "layers by the name of their group, such as {'early': [0, 1]}")
    read = numbers("[0, 1]")
    return {str(group): read(f"{name}[{group!r}]", some) for group, some in value.items()}


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
    refuse_path("model", named)
    return named


READERS: Mapping[str, Reader] = {
    "against": text("mean"),
    "align": truth,
    "also": texts("heads", none=True),
    "analysis": text("ablation"),
    "as_one": truth,
    "block": whole(1),
    "by": texts("greedy"),
    "chat": truth,
    "device": text("cpu"),
    "direction": text("denoising"),
    "directions": texts("denoising"),
    "dtype": text("float32"),
    "exhaustive": truth,
    "fewshot": whole(0),
    "folder": path,
    "folders": paths,
    "groups": groups,
    "heads": numbers("[0, 2]"),
    "held_out": real(0.5),
    "kind": text("skip"),
    "kl": truth,
    "language": text("text"),
    "layers": numbers("[0, 1]", names=True),
    "length": whole(50),
    "lens": text("logit"),
    "limit": whole(100),
    "mean_by": text("pooled"),
    "memory_budget": whole(2**30),
    "method": text("engine"),
    "n_removed": whole(1),
    "n_resamples": whole(10_000),
    "n_texts": whole(512),
    "name": model_name,
    "name_or_path": task_name,
    "offload": text("disk"),
    "out": path,
    "over": text("prompt"),
    "pairs": whole(16),
    "positions": texts("last"),
    "progress": truth,
    "protocols": texts("letter", none=True),
    "rate": real(0.01),
    "receivers": texts("logits", none=True),
    "recalibrate": truth,
    "remove": numbers("[4, 5]", names=True),
    "runs": runs,
    "sample": whole(64),
    "seed": seed,
    "sequences": whole(20),
    "site": text("attn_out"),
    "sites": texts("resid_post"),
    "steps": whole(200),
    "text": path,
    "threshold": real(0.4),
}
"""How each argument is read that is neither a model, a task nor a result, by its name."""
# These may be None, whatever they are if nobody says.
_NONE_FOR_ALL = {"limit"}


def check_arguments(**others: Reader) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Decorate a public function: its arguments are read before it is called.

    Args:
        others: readers of arguments that mean something else here than elsewhere.

    Raises:
        TypeError: when decorating, if an argument has no reader.
    """

    def decorate(function: Callable[_P, _R]) -> Callable[_P, _R]:
        signature = inspect.signature(function)
        missing = signature.parameters.keys() - READERS.keys() - others.keys()
        if missing:
            raise TypeError(f"{function.__name__} has arguments without a reader: {missing}.")
        readers = {name: others.get(name) or READERS[name] for name in signature.parameters}

        @functools.wraps(function)
        def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            bound = signature.bind(*args, **kwargs)
            read_all(signature, readers, bound.arguments)
            return function(*bound.args, **bound.kwargs)

        vars(call)["readers"] = readers
        return call

    return decorate


def read_all(
    signature: inspect.Signature, readers: Mapping[str, Reader], given: dict[str, Any]
) -> None:
    """Read the given arguments in place; None stays where it is the default."""
    for name, value in given.items():
        optional = signature.parameters[name].default is None or name in _NONE_FOR_ALL
        if value is not None or not optional:
            given[name] = readers[name](name, value)


def check_ahead(function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    """Refuse arguments of a public function but for its first, a model that is not loaded yet.

    Raises:
        UserError: as the function would.
    """
    signature, readers = inspect.signature(function), vars(function)["readers"]
    given = dict(signature.bind(None, *args, **kwargs).arguments)
    del given[next(iter(signature.parameters))]
    read_all(signature, readers, given)
