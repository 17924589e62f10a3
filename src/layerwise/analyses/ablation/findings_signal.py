"""Claims on tasks about which nothing can be said, for want of signal.

They read the table of intact accuracies; no test is made here.
"""

from __future__ import annotations

from layerwise.presentation.claim import OPEN, Claim, source, weight
from layerwise.presentation.no_signal import NAMED, in_full, in_short, not_better_than
from layerwise.presentation.rows import asked_of, records, rows
from layerwise.presentation.wording import counted
from layerwise.storage.run_tables import RunTables

SILENT = "no signal"


def silent(run: RunTables) -> list[Claim]:
    """A claim for each task and protocol without signal, and one for all beyond a few."""
    signal = run.table("signal")
    if signal is None:
        return []
    dull = rows(signal, signal=False)
    importance = weight(0.5, len(dull) / len(signal))
    missed = f"It is not shown to be better than {not_better_than(signal)}."
    found = [
        Claim(
            kind=SILENT, evidence=OPEN, importance=importance,
            short=f"Nothing is said of what layers cost for {in_short(row)}.",
            source=source("signal", {name: row[name] for name in ("task", "protocol")}),
            details=(missed, *in_full(row, signal, run.facts)),
            **asked_of(rows(dull, task=row["task"], protocol=row["protocol"])),
        )
        for row in records(dull)[:NAMED]
    ]  # fmt: skip
    if len(dull) > NAMED:
        more = counted(len(dull) - NAMED, "further task-protocol pair")
        found.append(Claim(
            kind=SILENT, evidence=OPEN, importance=importance,
            short=f"Nor is anything said of what layers cost for {more}.", details=(missed,),
            source=source("signal", {"signal": False}), **asked_of(dull.iloc[NAMED:]),
        ))  # fmt: skip
    return found
