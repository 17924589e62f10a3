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

from layerwise.ground.analysis_folders import OWN, leave_out, plugins

from . import layouts
from .layouts import TableLayout

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
LAYOUTS: dict[str, TableLayout] = {}  # of the tables of estimates
QUANTITIES: dict[str, layouts.Meaning] = {}


class ColumnMeanings(NamedTuple):
    """Meanings of some columns."""

    table: str  # the table that describes them; "" for columns that tables share
    columns: str
    text: str


@cache
def _column_descriptions(table: str) -> dict[str, ColumnMeanings]:
    """Descriptions of a table's columns, by name; those of tables that it is like among them."""
    texts = TABLES[table] if table else SHARED
    known: dict[str, ColumnMeanings] = {}
    for other in reversed(texts.get("like", "").split()):
        known |= _column_descriptions(other)
    own = {columns: text for columns, text in texts.items() if columns not in _FIELDS}
    return known | {c: ColumnMeanings(table, k, text) for k, text in own.items() for c in k.split()}


def column_description(table: str, column: str) -> ColumnMeanings:
    """Description of a column in a table; a bound without its own text belongs to its value."""
    known = _column_descriptions("") | _column_descriptions(table)
    bound = re.fullmatch(r"(\w+?)(_run)?_(low|high)", column)
    return known[column if column in known or not bound else bound[1]]


def parse_field(column: str, kinds: Mapping[str, str] = _USUAL) -> pa.Field:
    """A column as ``tables.toml`` writes it: its name, a type that is not its usual, ``?``."""
    name, _, kind = column.rstrip("?").partition(":")
    return pa.field(name, _TYPES[kind or kinds.get(name, "float")], column.endswith("?"))


class _TablesFile(NamedTuple):
    """Contents of a ``tables.toml``."""

    tables: dict[str, dict[str, str]]
    schemas: dict[str, pa.Schema]
    layouts: dict[str, TableLayout]
    quantities: dict[str, layouts.Meaning]


def _parse_tables(owner: str, written: dict[str, Any]) -> _TablesFile:
    """The tables of an analysis, from the text of its file."""
    kinds = _USUAL | _kinds(written.pop("types", {}))
    quantities = written.pop("quantities", {})
    written.pop("docs", None)  # which docs/make_results.py reads
    laid_out = {name: table.pop("estimates", None) for name, table in written.items()}
    return _TablesFile(
        written,
        {
            name: pa.schema([parse_field(column, kinds) for column in table["columns"].split()])
            for name, table in written.items()
        },
        {name: layouts.layout(owner, each) for name, each in laid_out.items() if each},
        {name: layouts.parse_meaning(text) for name, text in quantities.items()},
    )


def _add(owner: str, new: _TablesFile) -> None:
    TABLES.update(new.tables)
    SCHEMAS.update(new.schemas)
    OWNERS.update(dict.fromkeys(new.tables, owner))
    LAYOUTS.update(new.layouts)
    QUANTITIES.update(new.quantities)


def _add_plugin(owner: str, new: _TablesFile) -> None:
    """Add the tables of a plugin, or none of them if any is not as it should be."""
    for name in new.tables:
        if name in TABLES or not f"{name}_".startswith(f"{owner}_"):
            raise ValueError(f"the name of table {name!r} must be new, and begin with {owner!r}")
    if again := new.quantities.keys() & QUANTITIES.keys():
        raise ValueError(f"quantity {min(again)!r} is known already")
    everything: list[dict[str, Any]] = [TABLES, SCHEMAS, OWNERS, LAYOUTS, QUANTITIES]
    before = [dict(each) for each in everything]
    _add(owner, new)
    try:
        _refuse_incomplete(new)
    except Exception:
        for each, kept in zip(everything, before, strict=True):
            each.clear()
            each.update(kept)
        _column_descriptions.cache_clear()
        raise


def _refuse_incomplete(new: _TablesFile) -> None:
    """Refuse tables with columns that mean nothing, or have no place among the estimates."""
    for name, schema in new.schemas.items():
        _ = new.tables[name]["rows"], [column_description(name, column) for column in schema.names]
    for name, layout in new.layouts.items():
        own = {theirs for row in layout.rows for theirs in row.values.values()} | set(layout.where)
        if unlike := (own ^ set(new.schemas[name].names)) - {"heads", "kind"}:
            raise ValueError(f"column {min(unlike)!r} is in {name} or in its estimates alone")
        for row in layout.rows:
            _ = QUANTITIES[row.fixed["quantity"]]
            for column in (*layout.where.values(), *row.values, *row.fixed):
                SCHEMAS["estimates"].field(column)


_add("", _parse_tables("", _STORAGE))
for _folder in OWN:
    _text = _folder.path(TABLES_FILE).read_text("utf-8")
    _add(_folder.name, _parse_tables(_folder.name, tomllib.loads(_text)))
for _folder in plugins():
    try:
        _text = _folder.path(TABLES_FILE).read_text("utf-8")
        _add_plugin(_folder.name, _parse_tables(_folder.name, tomllib.loads(_text)))
    except Exception as _error:  # whatever it is, it is not layerwise's
        leave_out(_folder, _error)
