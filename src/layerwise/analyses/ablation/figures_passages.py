"""The picture of what a passage protects, from the table of books alone."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from layerwise.presentation.charts.lines import Words, draw_series, series
from layerwise.presentation.charts.marks import level, points
from layerwise.presentation.charts.panels import Panels
from layerwise.presentation.rows import by_protocol, layers_of, numbers, rows
from layerwise.presentation.style import FULL_WIDTH, look, styled
from layerwise.presentation.wording import LAYER_MAIN, capitalised, doing

from .figures import LIMITS, LOST_UNIT


@styled
def book_losses(
    books: pd.DataFrame,
    kind: str = LAYER_MAIN[0],
    site: str = LAYER_MAIN[1],
    width: float = FULL_WIDTH,
) -> Figure:
    """The share lost at each layer without a passage and with it, and their paired difference.

    A column of two panels per protocol. Above: the share of the above-floor accuracy that is lost,
    closed and open book. Below: closed minus open, bootstrap 95 % intervals; triangles mark layers
    that lose more items without the passage (up) or with it (down), of those right both ways.

    ``books`` is the table ``books.parquet``, of one pair of tasks and of single layers.
    """
    shown = rows(books, kind=kind, site=site)
    lines = by_protocol(shown)
    titles = [
        [f"{protocol}, n = {line['n_pairs'].iloc[0]}", f"({line['n_common'].iloc[0]} right both)"]
        for protocol, line in lines
    ]
    panels = Panels(titles, width, (0.95, 0.95), left=0.8)
    ways = (("closed", "without", "^", look(0)), ("open", "with", "v", look(1)))
    for (above, below), (_, line) in zip(panels.axes, lines, strict=True):
        for axes in (above, below):
            level(axes, 0)
        draw_series(above, [
            series(line, f"share {name}", seen, f"share_{name}", scale=100, unit=" % lost",
                   label=f"{words} the passage: {line[name].iloc[0]}")
            for name, words, _, seen in ways
        ])  # fmt: skip
        difference = series(
            line, "difference", look(2), "share_difference", ends=("share_low", "share_high"),
            scale=100, unit=" points", band=False, line=False,
        )  # fmt: skip
        draw_series(below, [difference], Words(interval="95 % interval of the difference"))
        for name, words, marker, seen in ways:
            more = rows(line, loses_more=name)
            points(below, more["layer"], 100 * numbers(more, "share_difference"), marker,
                   f"more {name}", f"loses more {words} it (Holm)", color=seen.color, mec="black",
                   mew=0.5)  # fmt: skip
    lowest = 100 * float(np.nanmin(numbers(shown, "share_difference")))
    panels.axes[0][0].set_ylim(*LIMITS)
    panels.axes[0][1].set_ylim(LIMITS[0] if lowest > LIMITS[0] + 10 else -LIMITS[1], LIMITS[1])
    panels.over_layers(layers_of(shown))
    title = f"{capitalised(doing(kind, site, 'one layer'))}: what the passage protects"
    return panels.finish(title, "layer", [LOST_UNIT, "closed minus\nopen (points)"])
