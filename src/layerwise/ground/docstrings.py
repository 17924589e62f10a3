"""The section ``Args`` of a docstring: read, and written with the parameters that it lacks."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable, Mapping
from typing import Any

_SECTION = re.compile(r"^Args:\n((?: .*\n?|\n(?= ))*)", re.MULTILINE)
_LATER = re.compile(r"^(Returns|Raises|Warns|Example):\n", re.MULTILINE)


def argument_texts(function: Callable[..., Any]) -> dict[str, str]:
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
