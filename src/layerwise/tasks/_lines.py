"""Lines of users' JSON Lines files and rows of CSV and Parquet, within bounds of memory."""

from __future__ import annotations

import csv
import json
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from layerwise.errors import UserError, one_line, shown

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


# A cell of a table of texts holds several of them.
_LISTS = ("choices", "aliases")
_BETWEEN = "|"


def csv_rows(path: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a CSV file with a header, each with the number of its last line."""
    reader = csv.reader(_texts(path), strict=True)
    try:
        header = next(reader, [])
        twice = [name for name in header if header.count(name) > 1]
        if twice:
            raise bad_line(path, 1, f"column {shown(twice[0])} stands twice; expected each once")
        for row in reader:
            if len(row) > len(header):
                what = f"{len(row)} cells, but {len(header)} columns; expected one for each column"
                raise bad_line(path, reader.line_num, f"{what}, with quotes around commas")
            cells = {field: cell for field, cell in zip(header, row, strict=False) if cell.strip()}
            if cells:
                yield reader.line_num, {field: _cell(field, text) for field, text in cells.items()}
    except csv.Error as error:
        raise bad_line(path, reader.line_num, f"not CSV ({one_line(error)})") from error


def _cell(field: str, text: str) -> Any:
    return [part.strip() for part in text.split(_BETWEEN)] if field in _LISTS else text


def known_values(path: str, number: int, row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of typed columns without those that are empty."""
    known = {field: value for field, value in row.items() if value is not None}
    for field, value in known.items():
        for each in value if isinstance(value, list) else [value]:
            refuse_broken(path, number, field, each)
    return known


def _texts(path: str) -> Iterator[str]:
    for number, line in lines(path):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise bad_line(path, number, "not UTF-8; save the file in that encoding") from error
        refuse_broken(path, number, "a cell", text)
        yield text.rstrip("\r") + "\n"


def parquet_rows(path: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a Parquet file, each with its number from 1."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(ordinary(path))
        if file.metadata.num_rows > MOST_LINES:
            raise UserError(
                f"File {path!r} has more than {MOST_LINES:,} rows; expected fewer, so cut the file."
            )
        number = 0
        for batch in file.iter_batches(1000):
            for row in batch.to_pylist():
                number += 1
                yield number, known_values(path, number, row)
    except (pa.ArrowException, OSError) as error:
        raise UserError(
            f"File {path!r} cannot be read ({one_line(error)}); expected a Parquet file with a "
            "question and an answer in each row."
        ) from error
