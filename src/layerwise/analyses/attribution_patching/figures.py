"""Figures of ``attribution_patching``, drawn from its saved tables alone."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from layerwise.presentation.charts.lines import draw_scatter
from layerwise.presentation.charts.panels import Panels
from layerwise.presentation.naming import name_layer
from layerwise.presentation.rows import numbers, parts, records, rows
from layerwise.presentation.style import FULL_WIDTH, with_style
from layerwise.presentation.wording import CAPABILITY_ORDER, number


@with_style
def estimate_agreement(
    cells: pd.DataFrame, agreement: pd.DataFrame, width: float = FULL_WIDTH
) -> Figure:
    """Estimated against true changes of the sampled cells, a panel per task and site.

    ``cells`` is the table that ``AttributionPatchingResult.cells`` gives; ``agreement`` is the
    table ``attribution_agreement``.
    """
    shown = pd.DataFrame(cells.dropna(subset=["true"]))
    named = [
        (part, rows(agreement, task=task, site=site)["spearman"].iloc[0])
        for (_, task, site), part in parts(shown, capability=CAPABILITY_ORDER, task=(), site=())
    ]
    titles = [
        [part["task"].iloc[0], f"{part['site'].iloc[0]}, {len(part)} cells",
         f"rank corr. {number(float(rho), 2)}"]
        for part, rho in named
    ]  # fmt: skip
    panels = Panels(titles, width, (1.1,), most=2.4)
    both = shown[["true", "estimate"]].astype(float)
    ends = float(both.min().min()), float(both.max().max())
    for axes, (part, _) in zip(panels.flat, named, strict=True):
        words = [
            f"layer {name_layer(row['layer'])}, {row['pos_label']}: estimated "
            f"{number(row['estimate'], 2)}, true {number(row['true'], 2)} nats"
            for row in records(part)
        ]
        draw_scatter(axes, numbers(part, "true"), numbers(part, "estimate"), words, ends)
    title = "Estimated and true change of the logit difference"
    return panels.finish(title, "true patch (nats)", ["estimated (nats)"])
