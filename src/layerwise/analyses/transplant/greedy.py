"""Greedy choice of layers: which first, which next beside it, and what they move on other items.

What is chosen by some items looks too good on these. So a task's items are parted: layers are
chosen by the one part, and what they move is estimated on the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from layerwise import stats
from layerwise.analyses.shared.left_out import HELD_OUT, SELECTION
from layerwise.errors import UserError
from layerwise.presentation.rows import numbers, rows
from layerwise.stats.effects import INTACT, Chance
from layerwise.storage.parquet import conform, frame
from layerwise.tasks import Task

from .names import BRINGS
from .tables import effects_table


def parted(task: Task, held_out: float, seed: int) -> dict[str, Task]:
    """A task's items to choose by, and those held out, drawn by the seed.

    Items that ask for the same thing are in the same part.
    """
    named = [item.id if item.cluster is None else item.cluster for item in task.items]
    clusters = list(dict.fromkeys(named))
    n = round(held_out * len(clusters))
    if not 0 < n < len(clusters):
        raise UserError(
            f"Of task {task.name!r} {n} of {len(clusters)} items would be held out; expected at "
            "least one item to choose layers by and one held out: take more items, or another "
            "held_out."
        )
    drawn = stats.generator(seed, HELD_OUT).permutation(len(clusters))[:n]
    out = {clusters[i] for i in drawn.tolist()}
    halves = {SELECTION: [], HELD_OUT: []}
    for item, cluster in zip(task.items, named, strict=True):
        halves[HELD_OUT if cluster in out else SELECTION].append(item)
    return {split: replace(task, items=tuple(items)) for split, items in halves.items()}


def best_of(tried: Sequence[pd.DataFrame], direction: str) -> int:
    """Which of some changes moves most: by accuracy, then log-probability, then the first."""
    sign = 1 if direction == BRINGS else -1
    means = [
        [sign * float(numbers(table, name).mean()) for name in ("correct", "gold_logprob")]
        for table in tried
    ]
    scores = [(right, 0.0 if np.isnan(nats) else nats, -i) for i, (right, nats) in enumerate(means)]
    return -max(scores)[2]


def greedy_table(
    transplant: pd.DataFrame, gaps: pd.DataFrame, chance: Chance, seed: int
) -> pd.DataFrame:
    """``transplant_greedy.parquet``: what layers that were chosen one after the other move."""
    held_out = rows(transplant, split=HELD_OUT)
    if held_out.empty:
        return frame("transplant_greedy", [])
    plain = transplant.loc[(transplant["kind"] == INTACT) & transplant["split"].isna()]
    items = held_out[["task", "protocol", "item"]].drop_duplicates()
    joined = pd.concat([plain.merge(items), held_out.assign(split=None)])
    effects = effects_table(conform("transplant", joined), gaps, chance, seed)
    change = ["task", "protocol", "host", "intervention"]
    chosen = effects.merge(held_out[[*change, "step"]].drop_duplicates(change), on=change)
    chosen_by = [_selection(row, transplant) for row in chosen.to_dict("records")]
    table = pd.concat([chosen, pd.DataFrame(chosen_by)], axis=1)
    order = ["task", "protocol", "host", "step"]
    return conform("transplant_greedy", table.sort_values(order).reset_index(drop=True))


def _selection(row: dict[str, Any], transplant: pd.DataFrame) -> dict[str, Any]:
    """How many were tried at a step, and what the chosen one moved on what it was chosen by."""
    about = {name: row[name] for name in ("task", "protocol", "host")}
    tried = rows(transplant, **about, split=SELECTION, step=row["step"])
    with_change = rows(tried, intervention=row["intervention"])
    plain = rows(transplant, **about, kind=INTACT, item=list(with_change["item"]))
    moved = float(numbers(with_change, "correct").mean() - numbers(plain, "correct").mean())
    return {
        "n_candidates": len(set(tried["intervention"])),
        "n_selection": len(with_change),
        "moved_selection": moved if row["direction"] == BRINGS else -moved,
    }
