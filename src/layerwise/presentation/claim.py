"""A claim: what a run's tables support or leave open, in short, in full, and as a record.

Claims are saved as ``claims.json`` and ``claims.parquet``. Which can be made, each analysis says.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from layerwise.ground.regular_files import read_regular
from layerwise.storage.atomic_files import remove_temporaries, write_atomically
from layerwise.storage.places import refuse_foreign

from .rows import rows
from .section import Table
from .wording import capitalise, interval, join_words, number, p_value, protocol_words, ranges


class Evidence(StrEnum):
    """Degree to which a claim is established, the surest first."""

    ESTABLISHED = "established"
    IN_TABLE = "in its table"
    OPEN = "not established"


EVIDENCE = ESTABLISHED, IN_TABLE, OPEN = tuple(Evidence)

# The kinds of claims in the order in which a reader is to meet them.
APART, ONE_ORDER, GENERAL = "different layers", "one order", "general"
SHARED, NEEDED, MORE, SPARED, GAINED = "shared", "needed", "loses more", "spare", "gain"
ORDER, SCORING, LENS, PATCHING = "order", "scoring", "lens", "patching"
SILENT = "no signal"
# How many published claims hold, and the verdict on each.
PUBLISHED, VERDICT = "published claims", "published claim"
ROLES = (APART, ONE_ORDER, GENERAL, SHARED, NEEDED, MORE, SPARED, GAINED)
_FIRST = (PUBLISHED, *ROLES, ORDER, SCORING, LENS, PATCHING)


# A second claim of one kind says less that is new than the first.
_DECAY = 0.8


class Estimate(NamedTuple):
    """A number with the bounds around it."""

    value: float
    low: float
    high: float
    unit: str  # ``"accuracy points"``, ``"%"``
    bounds: str = "95 % interval"  # or ``"bounds for all 120 tests together"``
    digits: int = 0  # decimals that are shown

    def __str__(self) -> str:
        if math.isnan(self.low) and math.isnan(self.high):
            return f"{number(self.value, self.digits)} {self.unit} (no interval)"
        return f"{interval(*self[:3], self.digits)} {self.unit} ({self.bounds})"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One thing that the tables support, or leave open.

    Attributes:
        kind: what sort of claim it is.
        short: the claim in at most 25 words, with at most two numbers beside an interval.
        evidence: ``established`` (over all that the run asked), ``in its table`` (corrected within
            one table only) or ``not established``.
        source: the table, ``where`` (columns and values that pick the rows that it is about) and
            ``at`` (those of the rows that it quotes).
        importance: from 0 to 1; among claims of a kind the higher comes first.
        capabilities: which it is about.
        tasks: which it is about.
        protocols: which it is about.
        layers: which it is about.
        estimate: the number that it stands on.
        p: the p-value that it stands on, corrected.
        test: the test and its family: ``"exact sign flips of items, Holm over 120 tests"``.
        items: how many items it stands on, in words.
        details: further sentences.
        caveat: what must not be concluded.
    """

    kind: str
    short: str
    evidence: str
    source: dict[str, Any]
    importance: float = 0.5
    capabilities: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    protocols: tuple[str, ...] = ()
    layers: tuple[int, ...] = ()
    estimate: Estimate | None = None
    p: float | None = None
    test: str = ""
    items: str = ""
    details: tuple[str, ...] = ()
    caveat: str = ""

    @property
    def full(self) -> str:
        """The claim with its estimate, test, items, tasks, ways of scoring and caveat."""
        parts = [self.short, *self.details]
        if self.estimate is not None:
            parts.append(f"Estimate: {self.estimate}.")
        if self.p is not None:
            parts.append(f"{capitalise(p_value(self.p))}: {self.test}.")
        data = [join_words(filter(None, [self.items, _named_list("task", self.tasks)]))]
        if self.protocols:
            data.append(f"when the model {join_words(map(protocol_words, self.protocols))}")
        if any(data):
            parts.append(f"{capitalise(', '.join(filter(None, data)))}.")
        return " ".join([*parts, self.caveat] if self.caveat else parts)

    def record(self) -> dict[str, Any]:
        """The claim as plain JSON values, for ``claims.json``."""
        plain = asdict(self) | {"full": self.full}
        if self.estimate is not None:
            plain["estimate"] = {
                name: None if isinstance(value, float) and not math.isfinite(value) else value
                for name, value in self.estimate._asdict().items()
            }
        return plain


def source(table: str, where: dict[str, Any], **at: Any) -> dict[str, Any]:
    """A claim's source: a table, the rows it is about, and those quoted among them."""
    return {"table": table, "where": where, "at": at}


def most_important(claims: list[Claim], most: int) -> list[Claim]:
    """The ``most`` important claims of a kind, each further one counting for less."""
    best = sorted(claims, key=lambda claim: -claim.importance)[:most]
    return [replace(claim, importance=claim.importance * _DECAY**i)
            for i, claim in enumerate(best)]  # fmt: skip


def weight(top: float, magnitude: float) -> float:
    """Importance of a claim of a kind worth ``top``, by the size of what it says."""
    return top * (0.5 + 0.5 * min(max(magnitude, 0.0), 1.0))


def _named_list(noun: str, names: Sequence[str]) -> str:
    return f"{noun}{'s' * (len(names) > 1)} {join_words(names)}" if names else ""


def rank_claims(claims: Iterable[Claim]) -> list[Claim]:
    """Claims as a reader is to meet them: by kind, and of each kind what is established first."""
    last = len(_FIRST)
    return sorted(
        claims,
        key=lambda claim: (
            _FIRST.index(claim.kind) if claim.kind in _FIRST else last,
            EVIDENCE.index(claim.evidence),
            -claim.importance,
        ),
    )


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


def refuse_foreign_claims(folder: Path) -> None:
    """Refuse a folder where claims cannot be written, or would replace files of others."""
    for kind, is_own in (("json", _is_list), ("parquet", _is_table)):
        refuse_foreign(folder / f"{CLAIMS}.{kind}", "file of claims", is_own)


def save_claims(claims: Sequence[Claim], folder: Path) -> None:
    """Write claims in the order in which a reader is to meet them."""
    refuse_foreign_claims(folder)
    for kind in ("json", "parquet"):
        remove_temporaries(folder, f"{CLAIMS}.{kind}")
    records = [claim.record() for claim in claims]
    text = json.dumps(records, ensure_ascii=False, indent=1, default=lambda number: number.item())
    write_atomically(folder / f"{CLAIMS}.json", text.encode())
    flat = []
    for record in json.loads(text):  # of its source the table alone
        estimate = record.pop("estimate") or {}
        named = {"estimate": estimate.get("value"), "table": record["source"]["table"]}
        flat.append(record | estimate | named)
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(flat, schema=_COLUMNS), buffer)
    write_atomically(folder / f"{CLAIMS}.parquet", buffer.getvalue())


def _is_list(path: Path) -> bool:
    """True if layerwise wrote a JSON file of claims."""
    known = json.loads(read_regular(path))
    named = {"kind", "evidence", "short", "full", "source"}
    return isinstance(known, list) and all(
        isinstance(one, dict) and named <= one.keys() for one in known
    )


def _is_table(path: Path) -> bool:
    """True if layerwise wrote a table of claims."""
    return {"kind", "evidence", "short", "full", "table"} <= set(pq.read_schema(path).names)


# Rows that are shown under a sentence; the file has the others.
MOST = 10


def evidence(finding: Claim, table: pd.DataFrame, file: str) -> Table:
    """The rows that a claim quotes, or is about if it quotes none, as they are in their file."""
    about = rows(table, **finding.source["where"])
    quoted = rows(about, **finding.source["at"])
    named = ["layers", "heads"] if {"intervention", "layer"} <= set(quoted.columns) else []
    few = quoted.head(MOST).drop(columns=named, errors="ignore")
    shown = few.dropna(axis="columns", how="all")
    texts = {str(name): [_text(value) for value in shown[name]] for name in shown}
    cells = [list(row) for row in zip(*texts.values(), strict=True)]
    columns, cells, alike = drop_constant_columns(tuple(texts), cells)
    cells = cells[:1] if len({tuple(row) for row in cells}) == 1 else cells
    if len(columns) >= 2 * len(cells):  # what is wide and low is turned
        heads = map(str, range(1, len(cells) + 1)) if len(cells) > 1 else ["value"]
        columns, cells = (
            ("column", *heads),
            [list(row) for row in zip(columns, *cells, strict=True)],
        )
    of = f" of the {len(about)} that the sentence is about" if len(about) > len(quoted) else ""
    more = f", the first {len(shown)} shown" if len(quoted) > len(shown) else ""
    plural = "" if len(quoted) == 1 else "s"
    picked = ", ".join(
        f"{name} {' or '.join(map(str, value)) if isinstance(value, list | tuple) else value}"
        for name, value in {**finding.source["where"], **finding.source["at"]}.items()
    )
    return Table(
        f"{len(quoted)} row{plural} of {file}",
        columns,
        cells,
        collapsed=True,
        note=f"Rows with {picked}: {len(quoted)} row{plural}{of}{more}.{alike}",
    )


def drop_constant_columns(
    columns: Sequence[str], cells: list[list[str]]
) -> tuple[tuple[str, ...], list[list[str]], str]:
    """Columns that differ between rows, their cells, and a sentence on what is alike in all."""
    apart = [i for i, _ in enumerate(columns) if len({row[i] for row in cells}) > 1]
    if not apart:
        return tuple(columns), cells, ""
    alike = [f"{name} {cells[0][i]}" for i, name in enumerate(columns) if i not in apart]
    kept = [[row[i] for i in apart] for row in cells]
    note = f" Alike in all shown: {', '.join(alike)}." if alike else ""
    return tuple(columns[i] for i in apart), kept, note


def _text(value: Any) -> str:
    if isinstance(value, list | tuple | np.ndarray):
        if len(value) > 2 and all(isinstance(number, int | np.integer) for number in value):
            return ranges(value)
        return ", ".join(map(_text, value))
    if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return ""
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float | np.floating) else str(value)
