"""Fields of a benchmark's rows by their types, and how their texts are taken apart.

Errors are ValueErrors in words that follow the file and the row, which ``source`` knows.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from typing import Any

from layerwise.errors import short_repr
from layerwise.tasks.extractors import EXTRACTORS
from layerwise.tasks.right_option import WrittenNumber, plain_text

Row = Mapping[str, Any]
_DIGITS = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?", re.ASCII | re.IGNORECASE)
_WHOLE = re.compile(r"([-+]?\d+)\.0*", re.ASCII)
_OPTION = re.compile(r"(?is)\b([a-e]) ?\) ?(.*?) ?(?=, ?[a-e] ?\)|$)")
# A list of options is taken apart as Python, which may need much more memory than it is long.
_LONGEST_LIST = 10_000
_LONGEST_TEMPLATE = 1000


def field(row: Row, name: str, kind: type = str) -> Any:
    """A field that is there and of a type, a text if nobody says."""
    if name not in row:
        raise ValueError(f"no field {name!r}")
    if not isinstance(row[name], kind):
        raise ValueError(f"field {name!r} is {short_repr(row[name])}; expected {_NOUNS[kind]}")
    return row[name]


_NOUNS: dict[type, str] = {str: "a text", list: "a list", dict: "an object"}


def texts(row: Row, name: str) -> list[str]:
    """A list of texts."""
    listed = field(row, name, list)
    for one in listed:
        if not isinstance(one, str):
            raise ValueError(f"field {name!r} has {short_repr(one)}; expected texts")
    return listed


def object_list(row: Row, name: str) -> list[Row]:
    """A list of objects."""
    listed = field(row, name, list)
    for one in listed:
        if not isinstance(one, dict):
            raise ValueError(f"field {name!r} has {short_repr(one)}; expected objects")
    return listed


def scalar_text(row: Row, name: str) -> str:
    """A text, or a number as its file has it."""
    try:
        return plain_text(field(row, name, object))
    except ValueError as error:
        raise ValueError(f"field {name!r} is {error}") from error


def number(row: Row, name: str) -> str:
    """A number, or a text of one, with all of its digits; a whole one without a point."""
    text = scalar_text(row, name).strip()
    if not _DIGITS.fullmatch(text):
        raise ValueError(f"field {name!r} is {short_repr(row[name])}; expected a number")
    if "e" in text.lower():
        text = scalar_text({name: WrittenNumber(text)}, name)
    whole = _WHOLE.fullmatch(text)
    return whole[1] if whole else text


def worked_answer(row: Row, name: str) -> tuple[str, str]:
    """Steps that lead to a number, and the number behind the last ``####``."""
    worked, mark, answer = field(row, name).rpartition("####")
    if not mark or EXTRACTORS["final_number"].find(f"####{answer}") is None:
        raise ValueError(
            f"field {name!r} is {short_repr(row[name])}; expected a number behind ####"
        )
    return worked.strip(), answer.strip()


def subject_template(row: Row, name: str) -> str:
    """A template with one ``{}``, which a subject is put in place of."""
    template = texts(row, name)[:1]
    if not template or not re.fullmatch(r"[^{}]*\{\}[^{}]*", template[0]):
        raise ValueError(
            f"field {name!r} is {short_repr(row[name])}; expected texts with one {{}} each"
        )
    if len(template[0]) > _LONGEST_TEMPLATE:
        raise ValueError(f"field {name!r} has a text of more than {_LONGEST_TEMPLATE} characters")
    return template[0]


def lettered_options(options: str) -> tuple[list[str], list[str]]:
    """The letters and the texts of options in one text, such as ``a ) 38 , b ) 27``."""
    if options.startswith("["):
        options = ", ".join(_python_list(options))
    pairs = _OPTION.findall(options)
    return [letter.lower() for letter, _ in pairs], [text for _, text in pairs]


def _python_list(options: str) -> list[str]:
    """A list of texts that is written as Python has it."""
    try:
        if len(options) > _LONGEST_LIST:
            raise ValueError("too long")
        listed = ast.literal_eval(options)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise ValueError(f"the options {short_repr(options)} are no list of texts") from error
    if not isinstance(listed, list) or not all(isinstance(one, str) for one in listed):
        raise ValueError(f"the options {short_repr(options)} are no list of texts")
    return listed


def without_marks(text: str) -> str:
    """A text of WikiHow without its marks, as lm-evaluation-harness has it."""
    lines = text.strip().replace(" [title]", ". ").split("\n")
    return "\n".join(map(_without_brackets, lines)).replace("  ", " ")


def _without_brackets(line: str) -> str:
    """A line without what stands from each bracket to the first one that closes."""
    # A pattern would look for the end of each of many brackets that nothing closes.
    kept, start = [], 0
    while (begin := line.find("[", start)) >= 0 and (end := line.find("]", begin)) >= 0:
        kept.append(line[start:begin])
        start = end + 1
    return "".join(kept) + line[start:]
