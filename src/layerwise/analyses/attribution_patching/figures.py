"""The pictures of this analysis, each from its tables alone."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from layerwise.presentation.grid import abreast, panel_grid, set_title
from layerwise.presentation.lettering import characters, label
from layerwise.presentation.panels import tasks_in_order
from layerwise.presentation.rows import numbers, rows
from layerwise.presentation.style import FULL_WIDTH, look, styled
from layerwise.presentation.wording import in_order, number

_LEAST = 1.45


@styled
def estimate_agreement(
    cells: pd.DataFrame, agreement: pd.DataFrame, width: float = FULL_WIDTH
) -> Figure:
    """Estimated against true changes of the sampled cells, a panel per task and site.

    Args:
        cells: the table that ``AttributionPatchingResult.cells`` gives.
        agreement: the table ``attribution_agreement.parquet``.
        width: the widest the figure may be, inches.
    """
    shown = pd.DataFrame(cells.dropna(subset=["true"]))
    named = [
        (task, site)
        for task in tasks_in_order(shown)
        for site in in_order(rows(shown, task=task)["site"], ())
    ]
    figure, panels = panel_grid(len(named), width, 1.6, 1.6, most=2.4, extra=0.6)
    room = figure.get_figwidth() / abreast(panels) - 0.5
    both = np.concatenate([numbers(shown, name) for name in ("true", "estimate")])
    ends = [float(both.min()), float(both.max())]
    for axes, (task, site) in zip(panels, named, strict=True):
        mine, told = rows(shown, task=task, site=site), rows(agreement, task=task, site=site)
        axes.plot(ends, ends, c="0.6", lw=0.6, ls="--", gid="equal")
        axes.plot(
            numbers(mine, "true"), numbers(mine, "estimate"), ls="", marker="o", ms=2.5, mew=0,
            alpha=0.7, c=look(0).color, gid="cells",
        )  # fmt: skip
        rho = number(float(told["spearman"].iloc[0]), 2)
        name = label(task, characters(room))
        axes.set_title(f"{name}\n{site}, {len(mine)} cells\nrank corr. {rho}", loc="left", pad=3)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels[:: abreast(panels)]:
        axes.set_ylabel("estimated (nats)")
    for axes in panels[-abreast(panels) :]:
        axes.set_xlabel("true patch (nats)")
    set_title(figure, "Estimated and true change of the logit difference")
    return figure
