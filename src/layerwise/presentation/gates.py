"""The table of a method's own gate: what the intact model had to be better than, and whether it is.

It is a table of text; tests are made in ``stats.signals``.
"""

from __future__ import annotations

import pandas as pd

from layerwise.storage.run_tables import RunTables

from .items import items_of
from .rows import records, rows
from .section import Table

_NOTE = (
    "The model sees no options here, so it is not compared with a guesser by options. p: the "
    "larger of both tests. Signal is decided after Holm's correction over the rows."
)


def gate_tables(run: RunTables, name: str, right: str, floor: str) -> list[Table]:
    """What a method's signal was decided on."""
    gate = run.table(name)
    if gate is None:
        return []
    columns = ("task", "protocol", "n", "right (%)", floor, "other question (%)", "p", "signal")
    cells = [
        [
            row["task"], row["protocol"], items_of(row), _percent(row["accuracy"]),
            _percent(row["floor"]), _percent(row["blind"]), f"{row['p']:.3g}",
            "yes" if row["signal"] else "no",
        ]
        for row in records(gate)
    ]  # fmt: skip
    return [Table(f"Is there signal? Right is {right} ({len(cells)})", columns, cells, True, _NOTE)]


def _percent(share: float) -> str:
    return "–" if pd.isna(share) else f"{100 * share:.0f}"


def has_signal(run: RunTables, task: str, protocol: str) -> bool | None:
    """Whether the intact model is better than blind; None if that was not measured."""
    signal = run.table("signal")
    if signal is None:
        return None
    gate = rows(signal, task=task, protocol=protocol)
    return bool(gate["signal"].iloc[0]) if len(gate) else None
