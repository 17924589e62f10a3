"""The public functions' arguments, as the command line knows them without importing the functions.

To import an analysis takes seconds, for it loads torch, and help must not wait for that. So
``make docs`` writes the arguments to ``signatures.json``, and a test compares the two.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_origin

if TYPE_CHECKING:
    from layerwise.ground.arguments import Argument

FILE = Path(__file__).with_name("signatures.json")
MODEL, FLAG, INT, FLOAT, PATH, TEXT, TEXTS = KINDS = (
    "model", "flag", "int", "float", "path", "text", "texts",
)  # fmt: skip


class Parameter(NamedTuple):
    """An argument of a public function, as far as an option needs it."""

    name: str
    kind: str  # one of ``KINDS``
    required: bool
    default: Any  # None if it is required
    text: str  # its description


class Signature(NamedTuple):
    """The first sentence of a function's docstring, and its parameters in their order."""

    summary: str
    parameters: Mapping[str, Parameter]


@functools.cache
def saved_signatures() -> Mapping[str, Signature]:
    """The signatures in the file, by ``module:function``."""
    saved = json.loads(FILE.read_text("utf-8"))
    return {
        target: Signature(summary, {one["name"]: Parameter(**one) for one in parameters})
        for target, (summary, parameters) in saved.items()
    }


def write_signatures(targets: Sequence[str]) -> None:
    """Write the signatures of some functions to the file, a line for each parameter."""
    functions = []
    for target in sorted(targets):
        summary, parameters = read_signature(target)
        rows = ",\n".join(f"  {_json(one._asdict())}" for one in parameters.values())
        functions.append(f" {_json(target)}: [{_json(summary)}, [\n{rows}\n ]]")
    FILE.write_text("{\n" + ",\n".join(functions) + "\n}\n", "utf-8")


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def import_function(target: str) -> Callable[..., Any]:
    """The function of ``module:name``."""
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def read_signature(target: str) -> Signature:
    """A function's signature, of the function itself."""
    function = import_function(target)
    arguments: Mapping[str, Argument] | None = vars(function).get("arguments")
    if not arguments:
        raise TypeError(f"{target} must have arguments and be decorated with check_arguments")
    summary = inspect.getdoc(function) or ""
    return Signature(
        " ".join(summary.partition("\n\n")[0].split()),
        {name: _parameter(one) for name, one in arguments.items()},
    )


def _parameter(argument: Argument) -> Parameter:
    required = argument.default is inspect.Parameter.empty
    default = None if required else argument.default
    return Parameter(argument.name, _kind(argument.type), required, default, argument.text)


def _kind(hint: Any) -> str:
    from layerwise.ground.arguments import members
    from layerwise.models.arguments import LoadedModel

    kinds = list(members(hint))
    if hint == LoadedModel:
        return MODEL
    if any(get_origin(kind) is Sequence for kind in kinds):
        return TEXTS
    if Path in kinds:
        return PATH
    return {bool: FLAG, int: INT, float: FLOAT}.get(kinds[0], TEXT)
