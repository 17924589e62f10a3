"""The tables that are saved, with the types and meanings of their columns, from ``tables.toml``.

A run's folder must know which files are layerwise's. ``docs/results.md`` lists all of them.
"""

from __future__ import annotations

import re
import tomllib
from functools import cache
from importlib.resources import files
from typing import NamedTuple

import pyarrow as pa

_PLAIN = {"str": pa.string(), "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_()}
_TYPES = _PLAIN | {f"{name}s": pa.list_(kind) for name, kind in _PLAIN.items()}
_FIELDS = ("fold", "rows", "like", "columns")

TABLES: dict[str, dict[str, str]] = tomllib.loads(
    files("layerwise.storage").joinpath("tables.toml").read_text("utf-8")
)
_USUAL = {name: kind for kind, names in TABLES.pop("types").items() for name in names.split()}
SHARED = TABLES.pop("shared")


class Meaning(NamedTuple):
    """What some columns mean."""

    table: str  # the table that describes them; "" for columns that tables share
    columns: str
    text: str


@cache
def _meanings(table: str) -> dict[str, Meaning]:
    """What columns mean in a table, by name; those of tables that it is like among them."""
    texts = TABLES[table] if table else SHARED
    known: dict[str, Meaning] = {}
    for other in reversed(texts.get("like", "").split()):
        known |= _meanings(other)
    own = {columns: text for columns, text in texts.items() if columns not in _FIELDS}
    return known | {c: Meaning(table, k, text) for k, text in own.items() for c in k.split()}


def meaning(table: str, column: str) -> Meaning:
    """What a column means in a table; a bound without a text of its own belongs to its value."""
    known = _meanings("") | _meanings(table)
    bound = re.fullmatch(r"(\w+?)(_run)?_(low|high)", column)
    return known[column if column in known or not bound else bound[1]]


def field_of(column: str) -> pa.Field:
    """A column as ``tables.toml`` writes it: its name, a type that is not its usual, ``?``."""
    name, _, kind = column.rstrip("?").partition(":")
    return pa.field(name, _TYPES[kind or _USUAL.get(name, "float")], column.endswith("?"))


SCHEMAS = {
    name: pa.schema([field_of(column) for column in table["columns"].split()])
    for name, table in TABLES.items()
}
