"""Columns of tables that are saved, by their types."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

_TYPES = {"str": pa.string(), "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_()}
STRINGS, INTEGERS, FLOATS = (pa.list_(_TYPES[name]) for name in ("str", "int", "float"))


def schema(**columns: Any) -> pa.Schema:
    """Columns by type: a name from ``_TYPES`` (with ``?`` where null is allowed), or pyarrow's."""
    plain = {n: _TYPES[k.rstrip("?")] if isinstance(k, str) else k for n, k in columns.items()}
    null = {n: not isinstance(k, str) or "?" in k for n, k in columns.items()}
    return pa.schema([pa.field(name, kind, null[name]) for name, kind in plain.items()])
