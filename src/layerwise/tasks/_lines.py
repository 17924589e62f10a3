"""Lines of users' JSON Lines files, one at a time, within bounds of memory."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from layerwise.errors import UserError, shown

# A line of 100 MB would take gigabytes once it is parsed, tokenised and kept; so would a file
# without an end.
MOST_BYTES_A_LINE = 2**20
MOST_LINES = 1_000_000


def bad_line(path: str, number: int, what: str) -> UserError:
    """The error for one line of a file: where, then what is wrong and what was expected."""
    return UserError(f"File {path!r}, line {number}: {what}.")


def objects(path: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a JSON Lines file, each with its line number; blank lines are passed over."""
    # Read as they are asked for. A byte-order mark is passed over.
    for number, line in lines(path):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise bad_line(path, number, "not UTF-8; save the file in that encoding") from error
        if text.strip():
            yield number, _object(path, number, text)


def lines(path: str) -> Iterator[tuple[int, bytes]]:
    """The lines of an ordinary file, with their numbers, as they are asked for."""
    try:
        with open(ordinary(path), "rb") as file:
            for number in range(1, MOST_LINES + 2):
                line = file.readline(MOST_BYTES_A_LINE + 1)
                if not line:
                    return
                if len(line) > MOST_BYTES_A_LINE:
                    raise bad_line(
                        path, number,
                        f"longer than {MOST_BYTES_A_LINE:,} bytes; expected one question a line",
                    )  # fmt: skip
                yield number, line.rstrip(b"\n")
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(
            f"File {path!r} cannot be read ({reason}); give the path of a .jsonl file."
        ) from error
    raise UserError(
        f"File {path!r} has more than {MOST_LINES:,} lines; expected fewer, so cut the file."
    )


def ordinary(path: str) -> Path:
    """A path to a file; a pipe or a device would have the reader wait, or never end."""
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # of a folder, opening tells
        raise UserError(
            f"File {path!r} is a pipe or a device; expected an ordinary file: save what it gives "
            "into one."
        )
    return Path(path)


def _object(path: str, number: int, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text, object_pairs_hook=_distinct)
    except UserError as error:
        raise bad_line(path, number, str(error)) from error
    except (ValueError, RecursionError) as error:
        raise bad_line(
            path, number, f"not JSON ({_reason(error)}); expected one object a line"
        ) from error
    if not isinstance(value, dict):
        raise bad_line(
            path, number, 'not a JSON object; expected one like {"question": ..., "answer": ...}'
        )
    for field, entry in value.items():
        refuse_broken(path, number, field, field)
        for element in entry if isinstance(entry, list) else [entry]:
            refuse_broken(path, number, field, element)
    return value


def _reason(error: ValueError | RecursionError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return error.msg
    # The only other ValueError is that of Python's own bound for the digits of a number.
    return "nested too deeply" if isinstance(error, RecursionError) else "a number is too long"


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"field {shown(twice)} stands twice; expected each field once")
    return fields


def refuse_broken(path: str, number: int, field: str, value: Any) -> None:
    """Refuse a text that no table or page can hold."""
    if isinstance(value, str) and ("\0" in value or any("\ud800" <= c <= "\udfff" for c in value)):
        raise bad_line(
            path, number,
            f"field {shown(field)} has a null character or half of one (a lone surrogate); "
            "expected a text of whole characters",
        )  # fmt: skip
