"""The pictures of this analysis, each from its tables alone."""

from __future__ import annotations

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure

from layerwise.presentation.grid import abreast, panel_grid, rows_and_columns, set_title
from layerwise.presentation.head_maps import finish_heads, head_map, mark_heads
from layerwise.presentation.rows import layers_of, numbers, rows
from layerwise.presentation.style import FULL_WIDTH, styled
from layerwise.presentation.wording import spread

_SCORES = ("prefix_matching", "previous_token", "next_token", "duplicate_token")
_SITES = {"z": "", "cross_z": ",\ncross-attention"}
_NOT_SCORED, _LEAST = "0.7", 1.45
_COLORS: Colormap = sns.color_palette("mako_r", as_cmap=True)  # type: ignore[assignment]


@styled
def head_score_maps(summary: pd.DataFrame, width: float = FULL_WIDTH) -> Figure:
    """Scores of each kind of attention that are there, layers by heads.

    Args:
        summary: the table ``heads_summary.parquet``.
        width: the widest the figure may be, inches.

    Returns:
        Mean attention from 0 to 1 on one scale; dots are induction heads. All panels have all
        layers and heads; grey is what has no such score.
    """
    shown = [
        (site, score)
        for site in _SITES
        for score in _SCORES
        if np.isfinite(numbers(rows(summary, site=site), score)).any()
    ]
    layers, (down, _) = layers_of(summary), rows_and_columns(len(shown), width, _LEAST)
    height = float(np.clip(0.11 * len(layers), 0.8, 3.6 if down == 1 and width > 4 else 1.8))
    figure, panels = panel_grid(len(shown), width, _LEAST, height + 0.5, most=2.4, extra=1.2)
    room = figure.get_figwidth() / abreast(panels) - 0.45
    for axes, (site, score) in zip(panels, shown, strict=True):
        mine = _whole(summary, site)
        head_map(axes, mine, score, _COLORS, (0.0, 1.0), (room, height))
        axes.set_facecolor(_NOT_SCORED)
        axes.set_title(f"{score.replace('_', ' ')}{_SITES[site]}", loc="left", pad=3)
        if (site, score) == shown[0]:
            mark_heads(axes, mine, rows(mine, induction_head=True), "0.95")
    finish_heads(
        figure, panels, ScalarMappable(Normalize(0, 1), _COLORS), "mean attention",
        0.1 / (height * down),
    )  # fmt: skip
    n = spread(summary["n_sequences"])
    set_title(figure, "Attention on repeated random tokens "
              f"(n = {n} sequences; dots: induction heads)")  # fmt: skip
    return figure


def _whole(summary: pd.DataFrame, site: str) -> pd.DataFrame:
    """The rows of one kind of attention, and a row of nulls for what has none of it."""
    places = summary[["layer", "head"]].drop_duplicates()
    return places.merge(rows(summary, site=site), how="left", on=["layer", "head"])
