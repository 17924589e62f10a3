"""Signatures and docstrings of public functions, read from their source text.

An analysis loads torch when it is imported, and its help must not wait for that. What stands as a
default in the signature of a public function is therefore a literal, which text alone tells.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

REQUIRED = inspect.Parameter.empty


@dataclass(frozen=True)
class Parameter:
    """A parameter of a public function.

    Attributes:
        name: its name.
        annotation: its type, as it is written.
        default: its default, or ``REQUIRED``.
        text: its description of the docstring, in one line.
    """

    name: str
    annotation: str
    default: Any
    text: str


@dataclass(frozen=True)
class Signature:
    """What the source of a public function says of it.

    Attributes:
        summary: the first sentence of its docstring.
        parameters: its parameters by name, in their order.
    """

    summary: str
    parameters: dict[str, Parameter]


@functools.cache
def signature_of(target: str) -> Signature:
    """Read a function's signature and docstring."""
    module, _, name = target.partition(":")
    (function,) = ast.parse(_source(module, name)).body
    assert isinstance(function, ast.FunctionDef)
    docstring = ast.get_docstring(function) or ""
    texts = dict(_described(docstring))
    parameters = {
        each.arg: Parameter(
            each.arg,
            ast.unparse(each.annotation) if each.annotation else "",
            REQUIRED if default is None else ast.literal_eval(default),
            texts.get(each.arg, ""),
        )
        for each, default in _with_defaults(function.args)
    }
    return Signature(" ".join(docstring.partition("\n\n")[0].split()), parameters)


def _source(module: str, name: str) -> str:
    """The text of a function, without its decorators: to parse all of a module takes longer."""
    spec = importlib.util.find_spec(module)
    loader: Any = spec.loader if spec else None
    pattern = rf"^def {name}\(.*?(?=^[^\s)]|\Z)"
    found = re.search(pattern, loader.get_source(module), re.MULTILINE | re.DOTALL)
    assert found is not None, f"{module} has no function {name}"
    return found.group()


def _with_defaults(given: ast.arguments) -> Iterator[tuple[ast.arg, ast.expr | None]]:
    """Each parameter with its default, None where it has none."""
    missing: list[ast.expr | None] = [None] * (len(given.args) - len(given.defaults))
    yield from zip(given.args, [*missing, *given.defaults], strict=True)
    yield from zip(given.kwonlyargs, given.kw_defaults, strict=True)


def _described(docstring: str) -> Iterator[tuple[str, str]]:
    """The names and texts of a docstring's section ``Args``."""
    section = re.search(r"^Args:\n((?: .*\n?|\n)*)", docstring, re.MULTILINE)
    if section is not None:
        for name, text in re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", section[1], re.MULTILINE):
            yield name, " ".join(text.split())
