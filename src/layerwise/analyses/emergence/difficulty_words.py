"""Words on how difficult the suites of two capabilities are, beside an order of the two.

They read the accuracies and their test in the table of orders; no test is made here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from layerwise.presentation.wording import join_words, p_value, protocol_phrase
from layerwise.storage.run_tables import RunTables
from layerwise.tasks.suites import MATCHED

_LEVEL = 0.05


def order_accuracy_sentence(row: dict[str, Any], run: RunTables, turned: bool = False) -> str:
    """Accuracy of the intact model in either, and what follows if that differs."""
    if not _has_accuracy_test(row):
        return ""
    accuracies, p = f" The intact model is right in {_right(row, turned)}", row["p_accuracy"]
    if p >= _LEVEL:
        return f"{accuracies}, no significant difference ({p_value(p)})."
    return (
        f"{accuracies} ({p_value(p)}). Difficulty may account for the order"
        f"{_matched_suites_note(str(row['protocol']), run)}."
    )


def orders_accuracy_sentence(shown: Sequence[dict[str, Any]], run: RunTables) -> str:
    """The same beside orders that contradict each other: where accuracies differ."""
    uneven = {
        str(row["protocol"]): row
        for row in shown
        if _has_accuracy_test(row) and row["p_accuracy"] < _LEVEL
    }
    if not uneven:
        return ""
    parts = [f"{_right(row)} {protocol_phrase(protocol)}" for protocol, row in uneven.items()]
    return (
        f" The intact model is right in {join_words(parts)}. Difficulty may account for "
        f"either order"
        f"{_matched_suites_note(next(iter(uneven)), run)}."
    )


def _right(row: dict[str, Any], turned: bool = False) -> str:
    parts = [f"{100 * row[f'accuracy_{name}']:.0f} % of the items of {row[name]}"
             for name in ("first", "second")]  # fmt: skip
    return " and ".join(reversed(parts) if turned else parts)


def _has_accuracy_test(row: dict[str, Any]) -> bool:
    return bool(pd.notna(row.get("p_accuracy")))


def _matched_suites_note(protocol: str, run: RunTables) -> str:
    """Pointer to suites about as difficult; nothing if it was these that were asked."""
    matched = {
        name for languages in MATCHED.values() for names in languages.values() for name in names
    }
    if {task.name for task in run.facts.tasks} <= matched:
        return ""
    name = "matched-generate" if protocol == "generate" else "matched"
    return f" (--task {name} asks suites that are about as difficult)"
