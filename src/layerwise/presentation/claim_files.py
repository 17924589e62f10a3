"""Claims as files: ``claims.json`` and ``claims.parquet`` in a run's folder.

What is claimed is not settled here.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from layerwise.storage.atomic_files import remove_temporaries, write_atomically

from .claim import Claim

CLAIMS = "claims"
_TEXTS, _LAYERS = pa.list_(pa.string()), pa.list_(pa.int64())
_COLUMNS = pa.schema(
    [
        *((name, pa.string()) for name in ("kind", "evidence", "short", "full", "caveat", "items")),
        *((name, _TEXTS) for name in ("capabilities", "tasks", "protocols")),
        ("layers", _LAYERS),
        *((name, pa.float64()) for name in ("estimate", "low", "high")),
        *((name, pa.string()) for name in ("unit", "bounds")),
        ("p", pa.float64()),
        *((name, pa.string()) for name in ("test", "table")),
    ]
)


def save_claims(claims: Sequence[Claim], folder: Path) -> None:
    """Write claims in the order in which a reader is to meet them."""
    for kind in ("json", "parquet"):
        remove_temporaries(folder, f"{CLAIMS}.{kind}")
    records = [claim.record() for claim in claims]
    text = json.dumps(records, ensure_ascii=False, indent=1, default=_plain)
    write_atomically(folder / f"{CLAIMS}.json", text.encode())
    rows = [_flat(record) for record in json.loads(text)]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=_COLUMNS), buffer)
    write_atomically(folder / f"{CLAIMS}.parquet", buffer.getvalue())


def _flat(record: dict[str, Any]) -> dict[str, Any]:
    """A claim as a row: the estimate's parts are columns, and of its source the table is named."""
    estimate = record.pop("estimate") or {}
    value = {"estimate": estimate.get("value"), "table": record["source"]["table"]}
    return record | estimate | value


def _plain(value: Any) -> Any:
    """A number of numpy's as one of Python's."""
    return value.item()
