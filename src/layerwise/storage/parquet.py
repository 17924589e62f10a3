"""Tables in and out of Parquet, with the columns that ``schemas`` says."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from layerwise.errors import DamagedResultsError, UserError, unknown_name
from layerwise.ground.regular_files import read_regular

from .atomic_files import write_atomically
from .schemas import SCHEMAS

# What to do about results that cannot be read.
AGAIN = "restore the file, or give the command that made its folder again, which makes it again"
_FACTS_KEY = b"layerwise.facts"
# Of a table in memory, texts among them. So many rows take more than a byte each in any file of a
# run, whose numbers differ.
_BYTES_A_CELL, _ROWS_TO_DOUBT = 16, 10_000_000
# Columns that a table may lack, in which items are told apart from what they ask for, draws, and
# books that are open.
_LACKING = {"cluster", "n_clusters", "draw", "n_draws", "closed_book", "examples", "n_examples"}


def frame(name: str, rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Rows as the table ``name``, in its column order and types."""
    schema = SCHEMAS[name]
    extra = set().union(*rows) - set(schema.names) if rows else set()
    if extra:
        raise ValueError(f"unknown columns for {name}: {sorted(extra)}")
    return _to_pandas(_refuse_nulls(pa.Table.from_pylist(rows, schema=schema)))


def conform(name: str, table: pd.DataFrame) -> pd.DataFrame:
    """A DataFrame as the table ``name``: its columns alone, in order, with their types."""
    return _to_pandas(_from_pandas(name, table))


def as_columns(name: str, table: pd.DataFrame) -> dict[str, list[Any]]:
    """The columns of the table ``name`` as plain values, with None for what is null."""
    return _from_pandas(name, table).to_pydict()


def from_columns(name: str, columns: dict[str, list[Any]]) -> pd.DataFrame:
    """The table ``name`` from plain values; the inverse of ``as_columns``."""
    return _to_pandas(_refuse_nulls(pa.table(columns, SCHEMAS[name])))


def refuse_other_columns(name: str, rows: pd.DataFrame) -> None:
    """Refuse rows of the table ``name`` that lack columns, as another version may have made."""
    missing = [column for column in SCHEMAS[name].names if column not in rows]
    if missing:
        raise UserError(
            f"Rows of {name} that were kept of an interrupted run lack {', '.join(missing)}: "
            "expected those that this version of layerwise made; delete the run's folder and give "
            "the same command again."
        )


def write_table(path: Path, name: str, table: pd.DataFrame, facts: str) -> None:
    """Write a table atomically, with the facts of its run in the file's metadata."""
    arrow = _from_pandas(name, table)
    write_atomically(path, to_bytes(arrow.replace_schema_metadata({_FACTS_KEY: facts.encode()})))


def is_table(path: Path) -> bool:
    """True if a file is a table of results that layerwise wrote."""
    return _FACTS_KEY in (pq.read_schema(path).metadata or {})


def read_table(
    path: Path, name: str, digest: str | None = None
) -> tuple[pd.DataFrame, bytes | None]:
    """Read a table, and the facts that are in its metadata, if any."""
    if name not in SCHEMAS:
        raise unknown_name("table", name, SCHEMAS)
    try:
        # the file is read whole first, so that none stays open and memory-mapped
        content = read_regular(path)
        if digest is not None and hashlib.sha256(content).hexdigest() != digest:
            raise DamagedResultsError(
                f"{path} was changed after it was written (its SHA-256 is not the one listed): "
                f"expected what layerwise wrote; {AGAIN}."
            )
        arrow = parse_table(path, content)
    except (OSError, pa.ArrowException) as error:
        raise DamagedResultsError(
            f"{path} is missing, damaged or not a Parquet file: expected a table that layerwise "
            f"wrote; {AGAIN}."
        ) from error
    missing = [column for column in SCHEMAS[name].names if column not in arrow.column_names]
    if missing:
        raise DamagedResultsError(
            f"{path} lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}: expected "
            f"the columns of {name}.parquet as layerwise writes them; {AGAIN}."
        )
    try:
        table = _refuse_nulls(arrow.select(SCHEMAS[name].names).cast(SCHEMAS[name]))
    except (ValueError, pa.ArrowException) as error:
        raise DamagedResultsError(
            f"{path} has a column of another type or without its values ({error}): expected "
            f"{name}.parquet as layerwise writes it; {AGAIN}."
        ) from error
    return _to_pandas(table), (arrow.schema.metadata or {}).get(_FACTS_KEY)


def refuse_too_many_rows(name: str, n_rows: int, work: str) -> None:
    """Refuse work whose table would not fit into memory, before any of it is done."""
    needed, free = n_rows * len(SCHEMAS[name]) * _BYTES_A_CELL, psutil.virtual_memory().available
    if needed > free:
        raise UserError(
            f"{work} would make {n_rows:,} rows or more of {name}.parquet, which take some "
            f"{needed / 2**30:,.0f} GiB of memory: expected no more than the "
            f"{free / 2**30:,.0f} GiB that are free; ask for fewer."
        )


def parse_table(path: Path, content: bytes) -> pa.Table:
    """The table in a Parquet file's bytes, if it can be as large as the file says."""
    metadata = pq.read_metadata(io.BytesIO(content))
    parts = [metadata.row_group(i).column(j) for i in range(metadata.num_row_groups)
             for j in range(metadata.num_columns)]  # fmt: skip
    cells = max(metadata.num_rows * metadata.num_columns, sum(part.num_values for part in parts))
    empty = metadata.num_rows > max(_ROWS_TO_DOUBT, len(content))
    if empty or cells * _BYTES_A_CELL > psutil.virtual_memory().available:
        raise DamagedResultsError(
            f"{path} says that it has {metadata.num_rows:,} rows in {len(content):,} bytes, which "
            f"would take some {cells * _BYTES_A_CELL / 2**30:.3g} GiB of memory: expected a table "
            f"that layerwise wrote, and room for it; {AGAIN}."
        )
    return pq.read_table(io.BytesIO(content), page_checksum_verification=True)


def to_bytes(table: pa.Table) -> bytes:
    """A table as Parquet with checksums."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", write_page_checksum=True)
    return buffer.getvalue()


def _from_pandas(name: str, table: pd.DataFrame) -> pa.Table:
    missing = {column for column in SCHEMAS[name].names if column not in table}
    # items that each stand by themselves
    table = table.assign(**dict.fromkeys(sorted(missing & _LACKING)))
    if missing := missing - _LACKING:
        raise ValueError(f"missing columns for {name}: {sorted(missing)}")
    # a list column without any list may have come as floats, and so may one without any cluster
    lists = [field.name for field in SCHEMAS[name]
             if pa.types.is_list(field.type) or field.name == "cluster"]  # fmt: skip
    table = table.astype({name: object for name in lists if table[name].dtype != object})
    try:
        return _refuse_nulls(pa.Table.from_pandas(table, SCHEMAS[name], preserve_index=False))
    except pa.ArrowException as error:
        raise ValueError(f"a column of {name} has another type: {error}") from error


def _refuse_nulls(table: pa.Table) -> pa.Table:
    for field in table.schema:
        if not field.nullable and table.column(field.name).null_count:
            raise ValueError(f"null in column {field.name}")
    return table


def _to_pandas(table: pa.Table) -> pd.DataFrame:
    integers = {pa.int64(): pd.Int64Dtype()}
    # Handing columns to threads takes longer than filling them, up to 100,000 rows.
    read = table.to_pandas(types_mapper=integers.get, ignore_metadata=True, use_threads=False)
    for field in table.schema:
        if field.type == pa.bool_() and field.nullable:
            read[field.name] = read[field.name].astype("boolean")
        elif pa.types.is_list(field.type):
            lists = table.column(field.name).to_pylist()
            read[field.name] = pd.Series(lists, index=read.index, dtype=object)
    return read
