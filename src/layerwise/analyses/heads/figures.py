"""Figures of ``heads``, drawn from its saved tables alone."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from layerwise.presentation.charts.heat import SHARES, head_maps
from layerwise.presentation.charts.panels import Bar
from layerwise.presentation.rows import numbers, rows
from layerwise.presentation.style import FULL_WIDTH, with_style
from layerwise.presentation.wording import number, spread

_SCORES = ("prefix_matching", "previous_token", "next_token", "duplicate_token")
_SITES = {"z": [], "cross_z": ["cross-attention"]}


@with_style
def head_score_maps(summary: pd.DataFrame, width: float = FULL_WIDTH) -> Figure:
    """Scores of each kind of attention that are there, layers by heads.

    Mean attention from 0 to 1 on one scale; dots are induction heads. All panels have all layers
    and heads; grey is what has no such score.

    ``summary`` is the table ``heads_summary``.
    """
    shown, places = [], summary[["layer", "head"]].drop_duplicates()
    for site, score in ((site, score) for site in _SITES for score in _SCORES):
        # a row of nulls for what has none of a kind of attention
        table = places.merge(rows(summary, site=site), how="left", on=["layer", "head"])
        table = table.assign(score=table[score])
        if np.isfinite(numbers(table, "score")).any():
            # a dot stands once for each head
            table["induction"] = table["induction_head"].isin([True]) & (not shown)
            shown.append(([score.replace("_", " "), *_SITES[site]], table))
    n = spread(summary["n_sequences"])
    return head_maps(
        shown,
        "score",
        Bar(SHARES, 0.0, 1.0, "mean attention"),
        f"Attention on repeated random tokens (n = {n} sequences)",
        width,
        mark="induction head",
        marked="induction",
        tell=lambda row: number(row["score"], 2),
    )
