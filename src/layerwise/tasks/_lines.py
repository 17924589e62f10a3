"""Lines of users' JSON Lines files and rows of CSV and Parquet, within bounds of memory."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from layerwise.errors import UserError, one_line, short_repr
from layerwise.ground.regular_files import open_regular, refuse_irregular

from .right_option import WrittenNumber

# A line of 100 MB would take gigabytes once it is parsed, tokenised and kept; so would a file
# without an end.
MOST_BYTES_A_LINE = 2**20
MOST_LINES = 1_000_000
_MOST_NAMED = 12


def bad_line(path: str, number: int, what: str) -> UserError:
    """The error for one line of a file: where, then what is wrong and what was expected."""
    # Rows in memory have no path.
    where = f"File {path!r}, line {number}" if path else f"Row {number} of the data (from 0)"
    return UserError(f"{where}: {what}.")


def lines(
    path: str, most: int = MOST_BYTES_A_LINE, expected: str = "one question a line"
) -> Iterator[tuple[int, str]]:
    """The lines of an ordinary file, with their numbers, as they are asked for."""
    number = 0
    try:
        with open_regular(Path(path)) as file:
            for number in range(1, MOST_LINES + 2):
                line = file.readline(most + 1)
                if not line:
                    return
                if len(line) > most:
                    raise bad_line(path, number, f"longer than {most:,} bytes; expected {expected}")
                # A byte-order mark is passed over.
                yield number, line.rstrip(b"\n").decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise bad_line(path, number, "not UTF-8; save the file in that encoding") from error
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


def objects(path: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a JSON Lines file, each with its line number; blank lines are passed over."""
    for number, text in lines(path):
        if not text.strip():
            continue
        try:
            value = json_value(text)
        except UserError as error:
            raise bad_line(path, number, str(error)) from error
        except ValueError as error:
            raise bad_line(path, number, f"{error}; expected one object a line") from error
        if not isinstance(value, dict):
            what = 'not a JSON object; expected one like {"question": ..., "answer": ...}'
            raise bad_line(path, number, what)
        for field in value:
            refuse_broken_text(path, number, field, field)
        _refuse_broken_values(path, number, value)
        yield number, value


def json_value(text: str) -> Any:
    """The value of a JSON text, with the digits of its numbers; ValueError says why it has none."""
    try:
        return json.loads(text, object_pairs_hook=_distinct, parse_float=WrittenNumber)
    except UserError:
        raise
    except (ValueError, RecursionError) as error:
        # The only other ValueError is that of Python's own bound for the digits of a number.
        deep = isinstance(error, RecursionError)
        reason = "nested too deeply" if deep else "a number is too long"
        raise ValueError(f"not JSON ({getattr(error, 'msg', reason)})") from error


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        twice = _first_repeat(name for name, _ in pairs)
        raise UserError(f"field {short_repr(twice)} stands twice; expected each field once")
    return fields


def _first_repeat(names: Iterable[str]) -> str | None:
    """The first name that an earlier one equals; None if all differ."""
    known: set[str] = set()
    for name in names:
        if name in known:
            return name
        known.add(name)
    return None


def some_names(names: Iterable[str]) -> str:
    """The first of some names, as a sentence can tell them."""
    first = [*islice(names, _MOST_NAMED + 1)]
    more = ", ..." * (len(first) > _MOST_NAMED)
    return ", ".join(name[:40] for name in first[:_MOST_NAMED]) + more


def is_whole(text: str) -> bool:
    """True if a text can stand in tables and pages: no null, no half of a character (surrogate)."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def refuse_broken_text(path: str, number: int, field: str, value: Any) -> None:
    """Refuse a text that no table or page can hold."""
    if isinstance(value, str) and not is_whole(value):
        what = f"field {short_repr(field)} has a null character or half of one (a lone surrogate)"
        raise bad_line(path, number, f"{what}; expected a text of whole characters")


def _refuse_broken_values(path: str, number: int, row: Mapping[str, Any]) -> None:
    for field, value in row.items():
        for element in value if isinstance(value, list) else [value]:
            refuse_broken_text(path, number, field, element)


def known_values(path: str, number: int, row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of typed columns without those that are empty."""
    known = {field: value for field, value in row.items() if value is not None}
    _refuse_broken_values(path, number, known)
    return known


def csv_cells(path: str, *, strict: bool = True) -> Iterator[tuple[int, list[str]]]:
    """The rows of a CSV file as cells, each with the number of its last line; blank ones too."""

    def texts() -> Iterator[str]:
        for number, text in lines(path):
            refuse_broken_text(path, number, "a cell", text)
            yield text.rstrip("\r") + "\n"

    reader = csv.reader(texts(), strict=strict)
    try:
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        reason = one_line(error)
        if "field limit" in reason:
            what = f"a cell has more than {csv.field_size_limit():,} characters; expected fewer"
            raise bad_line(path, reader.line_num, f"{what}; shorten it, or use .jsonl") from error
        raise bad_line(path, reader.line_num, f"not CSV ({reason})") from error


def csv_rows(path: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a CSV file with a header, each with the number of its last line."""

    def cell(field: str, text: str) -> Any:
        several = field in ("choices", "aliases")
        return [part.strip() for part in text.split("|")] if several else text

    rows = csv_cells(path)
    _, header = next(rows, (1, []))
    twice = _first_repeat(header)
    if twice is not None:
        raise bad_line(path, 1, f"column {short_repr(twice)} stands twice; expected each once")
    for number, row in rows:
        if len(row) > len(header):
            what = f"{len(row)} cells, but {len(header)} columns; expected one for each column"
            raise bad_line(path, number, f"{what}, with quotes around commas")
        named = zip(header, row, strict=False)
        cells = {field: cell(field, text) for field, text in named if text.strip()}
        if cells:
            yield number, cells


def parquet_rows(path: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a Parquet file, each with its number from 1."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        refuse_irregular(Path(path))
        file = pq.ParquetFile(path)
        if file.metadata.num_rows > MOST_LINES:
            raise UserError(
                f"File {path!r} has more than {MOST_LINES:,} rows; expected fewer, so cut the file."
            )
        for batch in file.iter_batches(1000):
            for row in _restore_short_floats(batch).to_pylist():
                number += 1
                yield number, known_values(path, number, row)
    except (pa.ArrowException, OSError) as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        raise UserError(
            f"File {path!r} cannot be read ({reason}); expected a Parquet file with a "
            "question and an answer in each row."
        ) from error
    except (ValueError, OverflowError) as error:
        if isinstance(error, UserError):
            raise
        what = f"a value that cannot be read ({one_line(error)}); expected texts and numbers"
        raise bad_line(path, number + 1, what) from error


def _restore_short_floats(batch: Any) -> Any:
    """A batch whose short floats, such as 0.1, do not get digits that they do not have."""
    import pyarrow as pa

    def other(kind: Any, made: Any) -> Any:
        if pa.types.is_list(kind):
            return pa.list_(other(kind.value_type, made))
        return made if pa.types.is_float32(kind) else kind

    columns = []
    for column in batch.columns:
        digits = other(column.type, pa.string())
        if digits != column.type:
            column = column.cast(digits).cast(other(column.type, pa.float64()))
        columns.append(column)
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)
