"""Arguments of the public functions, checked and made plain before any work is done.

Each has a reader by its type, some by their names: NumPy and torch scalars become plain numbers,
arrays and generators tuples, and what cannot be read is refused in a sentence. Models, tasks and
results have their readers in ``analyses.arguments``.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

from layerwise.errors import unknown_name

from .options import filled, whole_docstring
from .readers import (
    Reader,
    groups,
    limit,
    memory_budget,
    model_name,
    numbers,
    one_of,
    path,
    paths,
    real,
    resamples,
    runs,
    seed,
    task_name,
    text,
    texts,
    truth,
    whole,
)

_P = ParamSpec("_P")
_R = TypeVar("_R")

READERS: Mapping[str, Reader] = {
    "backend": one_of("backend", ("auto", "transformer-lens", "hugging-face")),
    "limit": limit,
    "memory_budget": memory_budget,
    "method": one_of("method", ("engine", "reference")),
    "n_resamples": resamples,
    "name_or_path": task_name,
    "offload": text("disk"),
    "positions": texts("last"),
    "seed": seed,
    "site": text("attn_out"),
    "sites": texts("resid_post"),
}
"""How arguments of some names are read, whatever their type."""
READERS_OF_TYPES: Mapping[str, Reader] = {
    "bool": truth,
    "Sequence[int]": numbers("[0, 2]"),
    "Sequence[int | str]": numbers("[0, 1]", names=True),
    "Groups": groups,
    "str | Path": path,
    "str | Path | Sequence[str | Path]": paths,
    "str | os.PathLike[str]": model_name,
    "Folders | Mapping[str, Folders]": runs,
}
"""How all others are read, by their types as they are written, without None."""


def reader_of(parameter: inspect.Parameter, types: Mapping[str, Reader]) -> Reader | None:
    """How an argument is read by its type; its usual value is the example in a refusal."""
    kind, usual = str(parameter.annotation).removesuffix(" | None"), parameter.default
    if kind == "int":
        return whole(usual if type(usual) is int else 1)
    if kind == "float":
        return real(usual or 0.5)
    if kind == "str" and isinstance(usual, str):
        return text(usual)
    if kind == "str | Sequence[str]" and usual:
        return texts(usual if isinstance(usual, str) else usual[0])
    return types.get(kind)


def check_arguments(
    *ahead: Callable[..., object], **others: Reader
) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Decorate a public function: its arguments, defaults too, are read before it is called."""
    return checked(ahead, {**READERS, **others}, READERS_OF_TYPES, {})


def checked(
    ahead: Sequence[Callable[..., object]],
    named: Mapping[str, Reader],
    types: Mapping[str, Reader],
    texts: Mapping[str, str],
) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """As ``check_arguments``, with all readers by name and by type, and texts of parameters."""

    def decorate(function: Callable[_P, _R]) -> Callable[_P, _R]:
        signature, described = filled(function, texts)
        readers: dict[str, Any] = {
            name: named.get(name) or reader_of(parameter, types)
            for name, parameter in signature.parameters.items()
        }
        missing = {name for name, reader in readers.items() if reader is None}
        if missing:
            raise TypeError(f"{function.__name__} has arguments without a reader: {missing}.")
        silent = {name for name, text in described.items() if not text}
        if silent and "Args:" in (function.__doc__ or ""):
            raise TypeError(f"{function.__name__} has arguments without a text: {silent}.")

        @functools.wraps(function)
        def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            for unknown in kwargs.keys() - readers.keys():
                raise TypeError(
                    str(unknown_name(f"argument of {function.__name__}", unknown, readers))
                )
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            read_all(signature, readers, bound.arguments)
            return function(*bound.args, **bound.kwargs)

        vars(call).update(readers=readers, ahead=ahead, __signature__=signature)
        if function.__doc__:
            call.__doc__ = whole_docstring(function.__doc__, described)
        return call

    return decorate


def read_all(
    signature: inspect.Signature, readers: Mapping[str, Reader], given: dict[str, Any]
) -> None:
    """Read arguments in place; None stays where it is the default."""
    for name, value in given.items():
        # A limit may be None whatever it is if nobody says.
        optional = signature.parameters[name].default is None or name == "limit"
        if value is not None or not optional:
            given[name] = readers[name](name, value)


def check_ahead(function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    """Refuse arguments of a public function but for its models, which are not loaded yet."""
    # The first argument is one; of what is not given and has no default nothing is said.
    signature = inspect.signature(function)
    bound = signature.bind_partial(None, *args, **kwargs)
    bound.apply_defaults()
    given = bound.arguments
    del given[next(iter(signature.parameters))]
    read_all(signature, vars(function)["readers"], given)
    for refuse in vars(function)["ahead"]:
        names = inspect.signature(refuse).parameters.keys() & given.keys()
        refuse(**{name: given[name] for name in names})
