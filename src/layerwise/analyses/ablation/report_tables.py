"""The tables of effects and of intact accuracies, as rows of text for a page.

No HTML is written here; escaping is the template's business.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from layerwise.presentation.columns import Column, cells, heads
from layerwise.presentation.rows import rows
from layerwise.presentation.table import Table, others
from layerwise.storage.run_tables import RunTables

from .columns import SIGNAL, STEPS, effect_columns
from .lookup import effects_of_heads, effects_of_layers

_TOP, _MOST = 15, 2000


def effects_tables(run: RunTables) -> list[Table]:
    """The largest effects, significant ones first, and all of them on demand."""
    effects = effects_of_layers(run)
    if effects is None:
        return []
    columns = effect_columns("p_holm", "Holm")
    shown, n, note = _effects(effects, columns)
    title = f"Largest effects ({min(_TOP, len(shown))} of {n})"
    top = Table(title, heads(columns), shown[:_TOP])
    return [top, Table(f"All effects ({n})", heads(columns), shown, True, note)]


def head_effects_tables(run: RunTables) -> list[Table]:
    """The heads with the largest effects, significant ones first, and all of them on demand."""
    of_heads = effects_of_heads(run)
    effects = pd.DataFrame() if of_heads is None else rows(of_heads, signal=True)
    if effects.empty:
        return []
    columns = effect_columns("p_bh", "BH")
    shown, n, note = _effects(effects, columns)
    title = f"Strongest heads ({min(_TOP, len(shown))} of {n})"
    top = Table(title, heads(columns), shown[:_TOP])
    return [top, Table(f"All effects of heads, tasks with signal ({n})", heads(columns), shown,
                       True, note)]  # fmt: skip


def _effects(effects: pd.DataFrame, columns: Sequence[Column]) -> tuple[list[list[str]], int, str]:
    """Effects as text, strongest first, how many there are, and where the others are."""
    ranked = effects.sort_values(
        by=["significant", "share_lost"], ascending=False, kind="stable", na_position="last"
    )
    shown = cells(columns, ranked.head(_MOST))
    return shown, len(ranked), others(len(ranked), len(shown), "rows are in effects.parquet")


def signal_table(run: RunTables, above_chance: bool) -> list[Table]:
    """The intact model's accuracy in task-protocol pairs with signal, or without."""
    signal = run.table("signal")
    if signal is None:
        return []
    shown = cells(SIGNAL, rows(signal, signal=above_chance))
    silent = "Not shown to be better than blind"
    title = "Intact model, tasks with signal" if above_chance else silent
    return [Table(title, heads(SIGNAL), shown, above_chance)] if shown else []


def ladder_tables(run: RunTables) -> list[Table]:
    """Each rung against the next, and the protocols against each other."""
    steps = run.table("ladder_steps")
    if steps is None:
        return []
    title = f"From rung to rung, and whether other layers are needed ({len(steps)})"
    return [Table(title, heads(STEPS), cells(STEPS, steps), True)]
