"""Signatures and docstrings of public functions, read from their source text.

An analysis loads torch when it is imported, and its help must not wait for that. What stands as a
default in the signature of a public function is therefore a literal, which text alone tells.
"""

from __future__ import annotations
import __future__

import ast
import functools
import importlib.util
import inspect
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from layerwise.ground.options import filled
from layerwise.runs import options

REQUIRED = inspect.Parameter.empty


class Signature(NamedTuple):
    """What the source of a public function says of it.

    Attributes:
        summary: the first sentence of its docstring.
        parameters: its parameters by name, in their order.
        texts: their descriptions, each in one line.
    """

    summary: str
    parameters: Mapping[str, inspect.Parameter]
    texts: Mapping[str, str]


@functools.cache
def signature_of(target: str) -> Signature:
    """Read a function's signature and docstring."""
    module, _, name = target.partition(":")
    function = _without_body(_source(module, name), name)
    signature, texts = filled(function, options.TEXTS)
    summary = inspect.cleandoc(function.__doc__ or "").partition("\n\n")[0]
    return Signature(" ".join(summary.split()), signature.parameters, texts)


def _source(module: str, name: str) -> str:
    """The text of a function, without its decorators: to parse all of a module takes longer."""
    spec = importlib.util.find_spec(module)
    loader: Any = spec.loader if spec else None
    pattern = rf"^def {name}\(.*?(?=^[^\s)]|\Z)"
    match = re.search(pattern, loader.get_source(module), re.MULTILINE | re.DOTALL)
    assert match is not None, f"{module} has no function {name}"
    return match.group()


def _without_body(source: str, name: str) -> Any:
    """A function that has a signature and a docstring, and nothing that needs an import."""
    tree = ast.parse(source)
    (function,) = tree.body
    assert isinstance(function, ast.FunctionDef)
    del function.body[1:]
    namespace = dict(vars(options))
    flags = __future__.annotations.compiler_flag
    exec(compile(tree, name, "exec", flags, dont_inherit=True), namespace)
    return namespace[name]
