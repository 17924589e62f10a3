"""Grids of panels, and what is around them: titles, legends, ticks of layers.

What is drawn into the panels is the business of each figure.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .lettering import FONT, characters, text_inches
from .style import COLUMN_WIDTH, LayerFigure, new_figure


def set_title(figure: Figure, text: str) -> None:
    """Put a title above the figure, broken so that it stays within its width."""
    longest = characters(figure.get_figwidth() - 0.1, FONT + 1)
    figure.suptitle("\n".join(textwrap.wrap(text, longest)), x=0.01, ha="left")


def rows_and_columns(n: int, width: float, least: float) -> tuple[int, int]:
    """An even grid for ``n`` panels, none narrower than ``least`` inches if it can be."""
    across = min(n, max(1, int(width / least)))
    rows = math.ceil(n / across)
    return rows, math.ceil(n / rows)


def panel_grid(
    n: int, width: float, least: float, height: float, most: float = 3.3, extra: float = 0.9
) -> tuple[LayerFigure, list[Axes]]:
    """A figure with ``n`` panels that share their axes, as many abreast as stay readable."""
    rows, across = rows_and_columns(n, width, least)
    figure = new_figure(min(width, max(COLUMN_WIDTH, across * most)), rows * height + extra)
    axes = figure.subplots(rows, across, sharex=True, sharey=True, squeeze=False).ravel()
    for spare in axes[n:]:
        spare.remove()
    for panel in axes[max(0, n - across) : n]:
        panel.tick_params(which="both", labelbottom=True)
    return figure, list(axes[:n])


def abreast(panels: list[Axes]) -> int:
    """How many panels of a grid stand beside each other."""
    spec = panels[0].get_subplotspec()
    return spec.get_gridspec().ncols if spec else 1


def layer_ticks(layers: Iterable[int], room: float, size: float = 0.16) -> list[int]:
    """Which layers get a tick label, so that labels of ``size`` inches do not meet."""
    names = sorted(layers)
    span = max(names) - min(names) + 1
    for step in (1, 2, 5, 10, 20, 50, 100):
        if room / span * step >= size:
            break
    return [name for name in names if name % step == 0]


def legend_below(figure: Figure, handles: list, columns: int | None = None) -> None:
    """One legend for the figure, under it, in as many columns as fit."""
    widest = max((text_inches(str(handle.get_label())) for handle in handles), default=0) + 0.6
    fit = max(1, int((figure.get_figwidth() - 0.2) / widest))
    figure.legend(
        handles=handles,
        loc="outside lower left",
        ncols=min(columns or len(handles), fit, len(handles)),
        frameon=False,
        handlelength=3.2,
        columnspacing=1.2,
    )
