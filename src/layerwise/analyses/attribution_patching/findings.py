"""A sentence on how far gradient estimates of patches hold.

Only what an interval supports makes a sentence; the table has the rest.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from layerwise.presentation.claim import IN_TABLE, OPEN, Claim, Estimate, source, spaced, weight
from layerwise.presentation.rows import asked_of, numbers, records, rows
from layerwise.presentation.wording import counted, in_order
from layerwise.stats import holm
from layerwise.stats.effects import ALPHA
from layerwise.storage.run_tables import RunTables

ESTIMATES = "estimates"


def estimates_hold(run: RunTables) -> list[Claim]:
    """In how many tasks gradient estimates rank patches as true patches do, and how well."""
    agreement = run.table("attribution_agreement")
    if agreement is None:
        return []
    found = []
    for direction in in_order(agreement["direction"], ()):
        mine = rows(agreement, direction=direction)
        mine = pd.DataFrame(mine.loc[~mine["signal"].eq(False).fillna(False)])
        for site in in_order(mine["site"], ()):
            told = rows(mine, site=site)
            if np.isfinite(numbers(told, "spearman_low")).any():
                found.append(_agreement(told, {"direction": direction, "site": site}))
    return spaced(found, 1)


def _agreement(mine: pd.DataFrame, where: dict[str, str]) -> Claim:
    known = mine.loc[np.isfinite(numbers(mine, "spearman_low"))]
    shown = records(known.loc[_beyond_chance(known)])
    least = records(known)[int(np.argmin(numbers(known, "spearman")))]
    value, low, high = (float(least[f"spearman{end}"]) for end in ("", "_low", "_high"))
    several = len(known) > 1 and np.isfinite(numbers(known, "spearman_p")).all()
    family = ", corrected by Holm over the tasks" if several else ""
    unit = f"rank correlation over cells on {least['task']}, the lowest"
    return Claim(
        kind=ESTIMATES, evidence=IN_TABLE if shown else OPEN, importance=weight(0.35, value),
        short=f"Gradients rank patches of {where['site']} as true patches do in {len(shown)} of "
        f"{counted(len(known), 'task')}.",
        estimate=Estimate(value, low, high, unit, digits=2),
        details=(f"They agree beyond chance there{family}; direction: {where['direction']}.",),
        source=source("attribution_agreement", where, task=str(least["task"])),
        **asked_of(known, "pair"),
    )  # fmt: skip


def _beyond_chance(known: pd.DataFrame) -> np.ndarray:
    """Where pairs and cells both say so; cells are not asked in tables of earlier versions."""
    p = numbers(known, "spearman_p")
    return (numbers(known, "spearman_low") > 0) & (np.isnan(p) | (holm(p) < ALPHA))
