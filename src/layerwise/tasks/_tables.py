"""Rows of users' CSV and Parquet files, with the fields of a line of a JSON Lines file.

What the fields mean is in ``jsonl``.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from typing import Any

from layerwise.errors import UserError, one_line, shown

from ._lines import MOST_LINES, bad_line, lines, ordinary, refuse_broken

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
