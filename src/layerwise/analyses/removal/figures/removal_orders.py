"""What is left of the accuracy as layers are removed, by capability and protocol, a line per order.

It reads the table ``removal_curves.parquet`` only.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from layerwise.analyses.removal.tables import WAYS
from layerwise.presentation.grid import layer_ticks, legend_below, set_title
from layerwise.presentation.lettering import label
from layerwise.presentation.rows import numbers, rows
from layerwise.presentation.style import COLUMN_WIDTH, FULL_WIDTH, look, new_figure, styled
from layerwise.presentation.wording import CAPABILITY_ORDER, PROTOCOL_ORDER, in_order

NAMES = {
    "greedy": "greedy",
    "block": "best block",
    "effect": "single-layer effect",
    "deep": "from the deep end",
    "angular": "angular distance",
    "influence": "block influence",
}
# Inches of a panel in which its name fits on one line.
_WIDE = 1.5


@styled
def removal_orders(curves: pd.DataFrame, width: float = FULL_WIDTH) -> Figure:
    """The share of the above-floor accuracy that is left, on held-out items.

    Args:
        curves: the table ``removal_curves.parquet``.
        width: the widest the figure may be, inches.

    Returns:
        A row of panels per capability, a column per protocol. 100 % is the intact model, 0 %
        the floor. Bands are paired bootstrap intervals; filled markers significant losses.
    """
    capabilities = in_order(curves["capability"], CAPABILITY_ORDER)
    protocols = in_order(curves["protocol"], PROTOCOL_ORDER)
    across = min(width, max(COLUMN_WIDTH, 2.3 * len(protocols)))
    room = across / len(protocols) - 0.6
    between = ", " if room > _WIDE else "\n"
    height = (1.45 if room > _WIDE else 1.65) * len(capabilities) + 0.9
    figure = new_figure(across, height)
    grid = figure.subplots(
        len(capabilities), len(protocols), sharex=True, sharey=True, squeeze=False
    )
    for line, capability in zip(grid, capabilities, strict=True):
        for axes, protocol in zip(line, protocols, strict=True):
            mine = rows(curves, capability=capability, protocol=protocol)
            _draw(axes, mine)
            count = [f"n = {mine['n_items'].iloc[0]}"] if len(mine) else []
            names = [label(capability, 12), label(protocol, 14), *count]
            axes.set_title(between.join(names), loc="left", pad=3)
        line[0].set_ylabel("accuracy above\nfloor left (%)")
    last = int(numbers(curves, "step").max())
    grid[0, 0].set_xticks(layer_ticks(range(last + 1), room, 0.24))
    grid[0, 0].set_xlim(-0.4, last + 0.4)
    grid[0, 0].set_ylim(-30, 125)
    for axes in grid[-1]:
        axes.set_xlabel("layers removed")
    set_title(figure, "Removal of layers in different orders, held-out items (bands: 95 %)")
    legend_below(figure, _handles(in_order(curves["by"], WAYS)))
    return figure


def _draw(axes: Axes, mine: pd.DataFrame) -> None:
    axes.axhline(100, color="0.5", lw=0.7, ls=(0, (1, 1.2)))
    axes.axhline(0, color="0.35", lw=0.8, ls=(0, (6, 2)))
    axes.spines[["top", "right"]].set_visible(False)
    if mine.empty:
        axes.text(0.5, 0.5, "no signal", transform=axes.transAxes, ha="center", color="0.4")
    for by in in_order(mine["by"], WAYS):
        line, seen = rows(mine, by=by).sort_values(by="step"), look(WAYS.index(by))
        steps = np.concatenate([[0], numbers(line, "step")])
        left, low, high = (
            np.concatenate([[100], 100 - 100 * numbers(line, name)])
            for name in ("share_lost", "share_high", "share_low")
        )
        axes.plot(steps, left, color=seen.color, ls=seen.linestyle, lw=0.9, gid=f"left {by}")
        axes.fill_between(steps, low, high, color=seen.color, alpha=0.1, lw=0, gid=f"band {by}")
        losses = line["significant"].to_numpy(dtype=bool) & (numbers(line, "share_lost") > 0)
        sure = np.concatenate([[False], losses])
        for chosen, fill in ((sure, seen.color), (~sure, "white")):
            axes.plot(steps[chosen], left[chosen], ls="", marker=seen.marker, ms=2.8, mew=0.7,
                      color=seen.color, mfc=fill)  # fmt: skip


def _handles(names: list[str]) -> list[Line2D]:
    handles = []
    for by in names:
        seen = look(WAYS.index(by))
        line = Line2D([], [], color=seen.color, ls=seen.linestyle, marker=seen.marker)
        line.set(ms=3, mfc="white", lw=0.9, label=NAMES[by])
        handles.append(line)
    sure = Line2D([], [], ls="", marker="o", color="0.35", ms=3, label="filled: significant loss")
    floor = Line2D([], [], color="0.35", lw=0.8, ls=(0, (6, 2)), label="floor")
    return [*handles, sure, floor]
