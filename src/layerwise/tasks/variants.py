"""Names of suites with arguments of their own: ``kv-words:n_pairs=8``, a suite made harder.

Which suites there are is told in ``registry``; what their arguments do, by their factories.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from layerwise.errors import UserError, shown

Arguments = Mapping[str, "int | tuple[int, ...]"]

_NOT_ASKED = ("language", "seed")
_KINDS = {"int": False, "int | None": False, "Sequence[int]": True}
_NUMBERS = re.compile(r"\d{1,4}(\+\d{1,4})*", re.ASCII)


def suite_arguments(factory: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """The arguments of a suite's factory that a name can set: whole numbers, and rows of them."""
    parameters = inspect.signature(factory).parameters
    return {
        name: one
        for name, one in parameters.items()
        if name not in _NOT_ASKED and one.annotation in _KINDS
    }


def base_of(name: str) -> str:
    """The suite's own name, in front of the arguments."""
    return name.partition(":")[0]


def read_arguments(name: str, factory: Callable[..., Any]) -> Arguments:
    """The arguments in a name such as ``arithmetic:digits=1+2:n_items=400``."""
    # No commas: tables join the names of tasks by them.
    base, *parts = name.split(":")
    known = suite_arguments(factory)
    given: dict[str, int | tuple[int, ...]] = {}
    for part in parts:
        argument, equals, value = part.partition("=")
        several = argument in known and _KINDS[known[argument].annotation]
        right = _NUMBERS.fullmatch(value) and (several or "+" not in value)
        if argument not in known or argument in given or not (equals and right):
            raise _unreadable(base, name, part, known)
        numbers = tuple(map(int, value.split("+")))
        given[argument] = numbers if several else numbers[0]
    if given.get("n_items") == 0:
        raise UserError(f"The task name {shown(name)} asks for 0 items; expected 1 or more.")
    return {argument: given[argument] for argument in known if argument in given}


def variant_name(base: str, arguments: Arguments) -> str:
    """What the suite with these arguments is called in results; the bare name without any."""
    stated = ":".join(f"{argument}={_written(value)}" for argument, value in arguments.items())
    return f"{base}:{stated}" if stated else base


def stated_defaults(factory: Callable[..., Any]) -> str:
    """The arguments that a name can set with their usual values, as a name writes them."""
    parameters = suite_arguments(factory).values()
    return ", ".join(
        one.name if one.default is None else f"{one.name}={_written(one.default)}"
        for one in parameters
    )


def _written(value: int | Sequence[int]) -> str:
    return str(value) if isinstance(value, int) else "+".join(map(str, value))


def _unreadable(
    base: str, name: str, part: str, known: Mapping[str, inspect.Parameter]
) -> UserError:
    if not known:
        return UserError(f"Suite {base!r} takes no arguments; ask for {base!r} alone.")
    examples = [f"{one}={'1+2' if _KINDS[known[one].annotation] else '8'}" for one in known]
    return UserError(
        f"Cannot read {shown(part)} in the task name {shown(name)}: expected arguments of "
        f"{base!r}, each once, with whole numbers of at most four digits, such as "
        f"{base}:{examples[0]}; it takes {', '.join(known)}."
    )
