"""The tables of effects and of intact accuracies, as rows of text for a page.

No HTML is written here; escaping is the template's business.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from layerwise.presentation.naming import name_intervention
from layerwise.presentation.rows import records, rows
from layerwise.presentation.table import Table, bounds, others
from layerwise.presentation.wording import (
    number,
)
from layerwise.storage.run_tables import RunTables

from .lookup import effects_of_heads, effects_of_layers

_TOP, _MOST = 15, 2000
_EFFECT = (
    "task", "protocol", "intervention", "n", "accuracy (%)", "change (points)", "share lost (%)",
    "gold log-prob. lost (nats)",
)  # fmt: skip


def effects_tables(run: RunTables) -> list[Table]:
    """The largest effects, significant ones first, and all of them on demand."""
    effects = effects_of_layers(run)
    if effects is None:
        return []
    cells, n, note = _effects(effects, "p_holm")
    columns = (*_EFFECT, "p (Holm)", "significant")
    top = Table(f"Largest effects ({min(_TOP, len(cells))} of {n})", columns, cells[:_TOP])
    return [top, Table(f"All effects ({n})", columns, cells, True, note)]


def head_effects_tables(run: RunTables) -> list[Table]:
    """The heads with the largest effects, significant ones first, and all of them on demand."""
    of_heads = effects_of_heads(run)
    effects = pd.DataFrame() if of_heads is None else rows(of_heads, signal=True)
    if effects.empty:
        return []
    cells, n, note = _effects(effects, "p_bh")
    columns = (*_EFFECT, "p (BH)", "significant")
    top = Table(f"Strongest heads ({min(_TOP, len(cells))} of {n})", columns, cells[:_TOP])
    return [top, Table(f"All effects of heads, tasks with signal ({n})", columns, cells, True,
                       note)]  # fmt: skip


def _effects(effects: pd.DataFrame, p: str) -> tuple[list[list[str]], int, str]:
    """Effects as text, strongest first, how many there are, and where the others are."""
    ranked = effects.sort_values(
        by=["significant", "share_lost"], ascending=False, kind="stable", na_position="last"
    )
    cells = [_effect(row, p) for row in records(ranked.head(_MOST))]
    return cells, len(ranked), others(len(ranked), len(cells), "rows are in effects.parquet")


def _effect(row: dict[str, Any], p: str) -> list[str]:
    accuracy = f"{number(100 * row['acc_intact'])} → {number(100 * row['acc'])}"
    if row["signal"]:
        share, sure = bounds(row, "share_lost", "share_low", "share_high", 100), row["significant"]
    else:
        share, sure = "no signal", False
    return [
        row["task"], row["protocol"], name_intervention(row["intervention"]), str(row["n_items"]),
        accuracy,
        bounds(row, "acc_diff", "acc_diff_low", "acc_diff_high", -100), share,
        bounds(row, "nats", "nats_low", "nats_high", 1, 2), f"{row[p]:.3g}",
        "yes" if sure else "no",
    ]  # fmt: skip


def signal_table(run: RunTables, above_chance: bool) -> list[Table]:
    """The intact model's accuracy in task-protocol pairs with signal, or without."""
    signal = run.table("signal")
    if signal is None:
        return []
    found = records(rows(signal, signal=above_chance))
    columns = ("task", "capability", "protocol", "n", "accuracy (%)", "chance (%)")
    cells = [
        [
            row["task"], row["capability"], row["protocol"], str(row["n_items"]),
            bounds(row, "accuracy", "low", "high", 100), number(100 * row["chance"]),
        ]
        for row in found
    ]  # fmt: skip
    title = "Intact model, tasks with signal" if above_chance else "Not shown to be above chance"
    return [Table(title, columns, cells, above_chance)] if cells else []
