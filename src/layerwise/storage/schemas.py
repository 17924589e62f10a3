"""The tables that are saved, with the types and meanings of their columns, from ``tables.toml``.

A run's folder must know which files are layerwise's: the tables of all analyses, each read from the
folder of its analysis. ``docs/results.md`` lists those of this package.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

import pyarrow as pa

from layerwise.ground.analysis_folders import OWN

from . import layouts
from .layouts import Layout

TABLES_FILE = "tables.toml"
_PLAIN = {"str": pa.string(), "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_()}
_TYPES = _PLAIN | {f"{name}s": pa.list_(kind) for name, kind in _PLAIN.items()}
_FIELDS = ("fold", "rows", "like", "columns")


def _kinds(types: Mapping[str, str]) -> dict[str, str]:
    """The type of each column, from columns by type."""
    return {name: kind for kind, names in types.items() for name in names.split()}


_STORAGE = tomllib.loads(files("layerwise.storage").joinpath(TABLES_FILE).read_text("utf-8"))
_USUAL = _kinds(_STORAGE.pop("types"))
SHARED: dict[str, str] = _STORAGE.pop("shared")

TABLES: dict[str, dict[str, str]] = {}
SCHEMAS: dict[str, pa.Schema] = {}
OWNERS: dict[str, str] = {}  # the analysis of each table; "" for those of several
LAYOUTS: dict[str, Layout] = {}  # of the tables of estimates
QUANTITIES: dict[str, layouts.Meaning] = {}


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


def field_of(column: str, kinds: Mapping[str, str] = _USUAL) -> pa.Field:
    """A column as ``tables.toml`` writes it: its name, a type that is not its usual, ``?``."""
    name, _, kind = column.rstrip("?").partition(":")
    return pa.field(name, _TYPES[kind or kinds.get(name, "float")], column.endswith("?"))


def _add(owner: str, written: dict[str, Any]) -> None:
    """Add the tables of an analysis."""
    kinds = _USUAL | _kinds(written.pop("types", {}))
    quantities = written.pop("quantities", {})
    QUANTITIES.update({name: layouts.meaning_of(text) for name, text in quantities.items()})
    for name, table in written.items():
        if "estimates" in table:
            LAYOUTS[name] = layouts.layout(owner, table.pop("estimates"))
        TABLES[name], OWNERS[name] = table, owner
        SCHEMAS[name] = pa.schema([field_of(c, kinds) for c in table["columns"].split()])


_add("", _STORAGE)
for _folder in OWN:
    _add(_folder.name, tomllib.loads(_folder.path(TABLES_FILE).read_text("utf-8")))
