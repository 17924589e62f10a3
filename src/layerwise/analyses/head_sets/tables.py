"""Tables of sets of heads: what each costs, and what the chosen one costs beyond random ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from layerwise.stats.cells import Cell, cells
from layerwise.stats.contrasts import layer_weights, share_contrast
from layerwise.stats.effects import Chance
from layerwise.stats.families.multiplicity import correct_rows
from layerwise.stats.pools import has_much_to_lose, pool_cells
from layerwise.stats.signals.signal import signals
from layerwise.storage.parquet import frame

CHOSEN = 0
"""Number of the set of the chosen heads; random sets are numbered from 1 on."""
_TARGET = ["by", "ranked_on"]


def records_by_set(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of ``head_sets`` as records, with the number of the set in place of the layer."""
    return table.assign(site="layer", layer=table["set"], layers=None, head=None, heads=None)


def tables_by_target(table: pd.DataFrame) -> Iterator[tuple[tuple[str, str | None], pd.DataFrame]]:
    """Rows by the way to rank and the tasks that ranked, in the order in which they stand."""
    groups: Any = table.groupby(_TARGET, sort=False, dropna=False)
    for (by, ranked_on), group in groups:
        yield (str(by), None if pd.isna(ranked_on) else str(ranked_on)), group


def losses_table(table: pd.DataFrame, chance: Chance) -> pd.DataFrame:
    """``head_set_losses``: what each set costs, and what the chosen one costs beyond the others."""
    rows: list[dict[str, Any]] = []
    for (by, ranked_on), group in tables_by_target(table):
        every = list(cells(records_by_set(group)))
        signal = signals(every, chance)
        for cell in every:
            key = {"by": by, "ranked_on": ranked_on, "task": cell.task,
                   "capability": cell.capability, "protocol": cell.protocol}  # fmt: skip
            known = signal[cell.task, cell.protocol]
            rows += [key | row for row in _cell_rows(cell, chance, known)]
    return frame("head_set_losses", correct_rows(rows))


def _cell_rows(cell: Cell, chance: Chance, signal: bool) -> Iterator[dict[str, Any]]:
    """Rows of the sets of one task under one protocol."""
    floor = cell.floor(chance(cell.task, cell.protocol))
    able = signal and cell.clusters.n > 1 and has_much_to_lose(cell.intact, floor)
    pool = pool_cells([cell], {(cell.task, cell.protocol): floor}, 1)
    sets, acc = pool.layers.tolist(), cell.correct.mean(axis=0)
    same = {"n_items": len(cell.items), "signal": signal, "acc_intact": float(cell.intact.mean())}
    for at, number_of_set in enumerate(sets):
        row = same | {"set": number_of_set, "acc": float(acc[at])}
        if able:
            lost = share_contrast(pool, layer_weights(pool.layers, [number_of_set]))
            low, high = lost.bounds()
            row |= {"share_lost": lost.estimate, "share_low": low, "share_high": high}
        if number_of_set == CHOSEN:
            random = np.delete(acc, at)
            row |= {"n_random": len(random), "n_worse": int((random <= acc[at]).sum())}
            if able:
                others = [other for other in sets if other != CHOSEN]
                more = share_contrast(pool, layer_weights(pool.layers, [CHOSEN], others))
                low, high = more.bounds()
                p = more.p_either_side()
                row |= {"more": more.estimate, "more_low": low, "more_high": high, "p": p}
        yield row
