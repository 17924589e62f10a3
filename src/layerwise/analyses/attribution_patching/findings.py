"""A sentence on how far gradient estimates of patches hold.

Only what an interval supports makes a sentence; the table has the rest.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from layerwise.presentation.claim import Claim, finding, source, spaced, weight
from layerwise.presentation.rows import numbers, records, rows
from layerwise.presentation.wording import counted, in_order, interval, spread_of
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
    rho = interval(least["spearman"], least["spearman_low"], least["spearman_high"], 2)
    sentence = (
        f"Gradients estimate patches of {where['site']} ({where['direction']}) in the order of "
        f"the true ones, beyond chance{_corrected(known)}, in {len(shown)} of "
        f"{counted(len(known), 'task')}: the "
        f"lowest rank correlation over sampled cells is {rho} ({least['task']}; n = "
        f"{spread_of(known['n_items'], 'pair')})."
    )
    size = weight(0.35, float(least["spearman"]))
    return finding(
        sentence, size, ESTIMATES, source("attribution_agreement", where, task=str(least["task"]))
    )


def _beyond_chance(known: pd.DataFrame) -> np.ndarray:
    """Where pairs and cells both say so; cells are not asked in tables of earlier versions."""
    p = numbers(known, "spearman_p")
    return (numbers(known, "spearman_low") > 0) & (np.isnan(p) | (holm(p) < ALPHA))


def _corrected(known: pd.DataFrame) -> str:
    several = len(known) > 1 and np.isfinite(numbers(known, "spearman_p")).all()
    return " (Holm over the tasks)" if several else ""
