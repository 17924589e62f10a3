"""Comparison of two folders of runs: every table bit for bit, all else but for times."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from layerwise.storage.parquet import to_bytes

FACTS = b"layerwise.facts"
TIMES = frozenset({"created", "seconds", "work", "planned"})
# In pages: when they were made, and how long what they tell of took.
_TIMES_IN_PAGES = re.compile(r"20\d\d-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?(\.\d+)?|\b[\d.,]+ (s|min)\b")

_TABLE = re.compile(r"<table.*?</table>", re.DOTALL)


def names(folder: Path) -> list[str]:
    """All files below a folder, hidden ones too."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def contents(folder: Path) -> dict[str, Any]:
    """Contents of each file below a folder, times left out."""
    return {name: content(folder / name) for name in names(folder)}


def content(path: Path) -> Any:
    """Content of a file, times left out."""
    match path.suffix:
        case ".parquet":
            return _table(path)
        case ".json":
            return _timeless(json.loads(path.read_bytes()))
        case ".html":
            return _page(path.read_text("utf-8"))
        case _:
            return path.read_bytes()


def differences(folder: Path, other: Path) -> list[str]:
    """The names of files that are in one of two folders only, or differ."""
    one, two = contents(folder), contents(other)
    return sorted(name for name in one.keys() | two.keys() if one.get(name) != two.get(name))


def _table(path: Path) -> tuple[bytes, Any]:
    """The bytes of a table written anew without its facts, and the facts."""
    table = pq.read_table(path, page_checksum_verification=True)
    facts = json.loads((table.schema.metadata or {}).get(FACTS, b"null"))
    plain: pa.Table = table.replace_schema_metadata(None)
    return to_bytes(plain.combine_chunks()), _timeless(facts)


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        # of listed files the names: their hashes follow from the times in them
        return {
            key: sorted(each) if key == "files" else _timeless(each)
            for key, each in value.items()
            if key not in TIMES
        }
    if isinstance(value, list):
        return [_timeless(each) for each in value]
    return value


def _page(text: str) -> str:
    without_seconds = _TABLE.sub(lambda it: "" if ">seconds<" in it[0] else it[0], text)
    return _TIMES_IN_PAGES.sub("TIME", without_seconds)
