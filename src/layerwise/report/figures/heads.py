"""Attention scores of heads on repeated random tokens, a heat map per score.

It reads the table of means only.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure

from layerwise.report.figures._head_maps import finish_heads, head_map, mark_heads
from layerwise.report.figures.grid import abreast, panel_grid, set_title
from layerwise.report.figures.style import FULL_WIDTH, styled
from layerwise.report.rows import layers_of, rows
from layerwise.report.wording import spread

_PANELS = {
    "prefix_matching": "prefix matching",
    "previous_token": "previous token",
    "duplicate_token": "duplicate token",
}
_COLORS: Colormap = sns.color_palette("mako_r", as_cmap=True)  # type: ignore[assignment]


@styled
def head_score_maps(summary: pd.DataFrame, width: float = FULL_WIDTH) -> Figure:
    """Prefix-matching, previous-token and duplicate-token scores, layers by heads.

    Args:
        summary: the table ``heads_summary.parquet``.
        width: the widest the figure may be, inches.

    Returns:
        Mean attention from 0 to 1 on one scale; dots are induction heads.
    """
    layers = layers_of(summary)
    height = float(np.clip(0.11 * len(layers), 0.8, 3.6 if width > 4 else 1.8))
    figure, panels = panel_grid(len(_PANELS), width, 1.45, height + 0.4, most=2.4, extra=1.2)
    room = figure.get_figwidth() / abreast(panels) - 0.45
    for axes, (score, name) in zip(panels, _PANELS.items(), strict=True):
        head_map(axes, summary, score, _COLORS, (0.0, 1.0), (room, height))
        axes.set_title(name, loc="left", pad=3)
    mark_heads(panels[0], summary, rows(summary, induction_head=True), "0.95")
    finish_heads(
        figure, panels, ScalarMappable(Normalize(0, 1), _COLORS), "mean attention", 0.1 / height
    )
    n = spread(summary["n_sequences"])
    set_title(figure, "Attention on repeated random tokens "
              f"(n = {n} sequences; dots: induction heads)")  # fmt: skip
    return figure
