"""A sentence on what cannot be told at all, for want of signal.

It reads the table of intact accuracies; no test is made here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from layerwise.presentation.claim import OPEN, Claim, source, weight
from layerwise.presentation.items import items_of
from layerwise.presentation.rows import records, rows
from layerwise.presentation.wording import counted, in_order, joined, percent
from layerwise.storage.run_tables import RunTables

SILENT = "no signal"
_NAMED = 4


def silent(run: RunTables) -> list[Claim]:
    """What has no signal, and the accuracies that say so."""
    signal = run.table("signal")
    if signal is None:
        return []
    dull = rows(signal, signal=False)
    if dull.empty:
        return []
    cells = tuple(_silent_cell(row) for row in records(dull)[:_NAMED])
    more = (f"And {len(dull) - _NAMED} more.",) if len(dull) > _NAMED else ()
    tasks, protocols = (tuple(in_order(dull[name], ())) for name in ("task", "protocol"))
    return [Claim(
        kind=SILENT, evidence=OPEN, importance=weight(0.5, len(dull) / len(signal)),
        short=f"Nothing is said of what layers cost for {len(dull)} of "
        f"{counted(len(signal), 'task-protocol pair')}: the model is not shown to be better than "
        "its controls.",
        tasks=tasks, protocols=protocols, source=source("signal", {"signal": False}),
        details=(f"It is not shown to be better than {_controls(signal)}.", *cells, *more),
    )]  # fmt: skip


# What the intact model must be better than, each, beside stated chance: column, name.
_MEASURED = (("blind", "blind"), ("no_layers", "without layers"))


def _controls(signal: pd.DataFrame) -> str:
    """What has to be beaten, by what the run measured, and the correction if there is one."""
    measured = [name for column, name in _MEASURED if _is_measured(signal, column)]
    held = "guesser_held" in signal and bool(signal["guesser_held"].fillna(value=False).any())
    controls = joined(["chance", *measured, *(["guesses without the question"] if held else [])])
    return f"{controls} alike (Holm)" if len(signal) > 1 else controls


def _is_measured(signal: pd.DataFrame, column: str) -> bool:
    return column in signal and bool(signal[column].notna().any())


def _silent_cell(row: dict[str, Any]) -> str:
    accuracy = percent(row["accuracy"], row["low"], row["high"])
    measured = "".join(
        f", {name} {100 * row[column]:.0f} %"
        for column, name in _MEASURED
        if row.get(column) is not None and not np.isnan(row[column])
    )
    return (
        f"{row['task']} under {row['protocol']}: accuracy {accuracy}, chance "
        f"{100 * row['chance']:.0f} %{measured} (n = {items_of(row)}).{_guessed(row)}{_taken(row)}"
    )


def _guessed(row: dict[str, Any]) -> str:
    """What is right without the question, where chance is not all that guessing gives."""
    held = row.get("guesser_held")
    if held is None or pd.isna(held) or not held:
        return ""
    given = f"{100 * row['guesser']:.0f} % by {row['guesser_rule']}, without the question"
    controls = [row.get(name) for name in ("chance", "blind", "no_layers")]
    others = [one for one in controls if one is not None and not pd.isna(one)]
    if row["guesser"] > max(others):
        return f" It is not shown to be better than {given}."
    return f" {given}."


def _taken(row: dict[str, Any]) -> str:
    """That one place of the options is taken in most items, whatever is asked."""
    times = row.get("n_most_taken")
    if times is None or pd.isna(times) or 2 * times <= row["n_items"]:
        return ""
    place = int(row["most_taken"])
    name = chr(ord("A") + place) if row["protocol"] == "letter" else f"option {place + 1}"
    return f" It takes {name} in {int(times)} items."
