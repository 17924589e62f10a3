"""Options that functions share: each has its type, default and text in one place.

A function takes them as ``**options: Unpack[...]`` of a ``TypedDict`` whose entries are
``Annotated[type, default, text]``; here they are filled into its signature and docstring.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Mapping
from typing import Any

_SECTION = re.compile(r"^Args:\n((?: .*\n?|\n(?= ))*)", re.MULTILINE)
_LATER = re.compile(r"^(Returns|Raises|Warns|Example):\n", re.MULTILINE)
_UNPACKED = re.compile(r"Unpack\[(\w+)\]")


def options_of(kind: Any) -> dict[str, tuple[inspect.Parameter, str]]:
    """The options of a ``TypedDict`` as parameters, with their texts."""
    options = {}
    for name, hint in kind.__annotations__.items():
        annotated: Any = ast.parse(hint.__forward_arg__, mode="eval").body
        written, *literals = annotated.slice.elts
        default, text = map(ast.literal_eval, literals)
        parameter = inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=ast.unparse(written)
        )
        options[name] = parameter, text
    return options


def filled(
    function: Callable[..., Any], texts: Mapping[str, str]
) -> tuple[inspect.Signature, dict[str, str]]:
    """A function's signature with the options that it unpacks, and the text of each parameter."""
    signature = inspect.signature(function)
    parameters, known = list(signature.parameters.values()), dict(texts)
    unpacked = _UNPACKED.fullmatch(str(parameters[-1].annotation)) if parameters else None
    if unpacked:
        options = options_of(inspect.unwrap(function).__globals__[unpacked[1]])
        parameters[-1:] = [parameter for parameter, _ in options.values()]
        known |= {name: text for name, (_, text) in options.items()}
    known |= described(function)
    signature = signature.replace(parameters=parameters)
    return signature, {name: known.get(name, "") for name in signature.parameters}


def of_kind(kind: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of some options that are entries of a ``TypedDict``."""
    return {name: options[name] for name in kind.__annotations__}


def described(function: Callable[..., Any]) -> dict[str, str]:
    """The texts of a docstring's section ``Args``, each in one line."""
    section = _SECTION.search(inspect.cleandoc(function.__doc__ or ""))
    entries = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", section[1] if section else "", re.M)
    return {name: " ".join(text.split()) for name, text in entries}


def whole_docstring(docstring: str, texts: Mapping[str, str]) -> str:
    """A docstring whose section ``Args`` has all parameters; as it is if one has no text."""
    clean = inspect.cleandoc(docstring) + "\n\n"
    if not all(texts.values()):
        return docstring
    section = _SECTION.search(clean)
    after = section or _LATER.search(clean)
    start = after.start() if after else len(clean)
    end = section.end() if section else start
    entries = [
        textwrap.fill(
            f"{name}: {text}", 96, initial_indent=" " * 4, subsequent_indent=" " * 8,
            break_long_words=False, break_on_hyphens=False,
        )
        for name, text in texts.items()
    ]  # fmt: skip
    return clean[:start] + "\n".join(["Args:", *entries, "", ""]) + clean[end:].lstrip("\n")
