"""From which depth on right answers stay on top of the lens, by capability.

It reads the tables of prediction depth only.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from layerwise.analyses.logit_lens.names import LENS_ORDER
from layerwise.presentation.grid import set_title
from layerwise.presentation.layer_axis import name_depths
from layerwise.presentation.lettering import label
from layerwise.presentation.rows import numbers, records, rows
from layerwise.presentation.style import COLUMN_WIDTH, FULL_WIDTH, look, new_figure, styled
from layerwise.presentation.wording import CAPABILITY_ORDER, PROTOCOL_ORDER, in_order, interval

_PANEL, _ABREAST = 2.9, 2


@styled
def prediction_depth_curves(
    depths: pd.DataFrame, means: pd.DataFrame, width: float = FULL_WIDTH
) -> Figure:
    """The share of right answers that are settled by each depth.

    Args:
        depths: the table ``prediction_depth.parquet``.
        means: the table ``prediction_depth_means.parquet``: which tasks have signal, and the
            means with their intervals.
        width: the widest the figure may be, inches.

    Returns:
        A panel per lens and protocol. Steps are the cumulative share of items by capability;
        under them the mean depth of each with its interval.
    """
    groups = _groups(means)
    abreast = min(len(groups), max(1, min(_ABREAST, int(width // _PANEL))))
    down = -(-len(groups) // abreast)
    capabilities = in_order(means["capability"], CAPABILITY_ORDER)
    foot = 0.16 * len(capabilities) + 0.1
    figure = new_figure(max(COLUMN_WIDTH, min(width, 3.45 * abreast)), down * (2.7 + foot) + 0.3)
    ratios = [1.3, foot] * down
    grid = figure.subplots(2 * down, abreast, sharex=True, squeeze=False, height_ratios=ratios)
    for i, (lens, protocol) in enumerate(groups):
        upper, lower = grid[2 * (i // abreast) : 2 * (i // abreast) + 2, i % abreast]
        mine = rows(means, lens=lens, protocol=protocol)
        upper.set_title(f"{label(lens)} lens, {label(protocol, 14)}", loc="left", pad=3)
        _steps(upper, rows(depths, lens=lens, protocol=protocol), mine, capabilities)
        _means(lower, mine, capabilities)
    for spare in grid[2 * down - 2 :, (len(groups) - 1) % abreast + 1 :].ravel():
        spare.remove()
    set_title(figure, "Prediction depth: where right answers settle")
    return figure


def _groups(means: pd.DataFrame) -> list[tuple[str, str]]:
    pairs = set(zip(means["lens"], means["protocol"], strict=True))
    return [
        (lens, protocol)
        for lens in in_order(means["lens"], LENS_ORDER)
        for protocol in in_order(means["protocol"], PROTOCOL_ORDER)
        if (lens, protocol) in pairs
    ]


def _steps(axes: Axes, depths: pd.DataFrame, means: pd.DataFrame, order: list[str]) -> None:
    for row in records(means):
        mine = rows(depths, capability=row["capability"], task=row["tasks"].split(","), right=True)
        values = np.sort(numbers(mine, "depth"))
        seen, share = look(order.index(row["capability"])), np.arange(1, len(values) + 1)
        axes.step(
            [-0.03, *values, 1.03], [0, *(share / len(values)), 1], where="post",
            color=seen.color, ls=seen.linestyle, lw=1.1, marker=seen.marker, ms=2.8,
            markevery=max(1, len(values) // 5), gid="settled",
        )  # fmt: skip
    name_depths(axes)
    axes.set_xlim(-0.03, 1.03)
    axes.set_ylim(-0.02, 1.02)
    axes.set_ylabel("share of right answers settled")
    axes.grid(color="0.92", lw=0.5)
    axes.spines[["top", "right"]].set_visible(False)


def _means(axes: Axes, means: pd.DataFrame, order: list[str]) -> None:
    there = {row["capability"]: row for row in records(means)}
    for y, row in ((order.index(name), row) for name, row in there.items()):
        seen, bounds = look(y), (row["depth"], row["low"], row["high"])
        axes.plot(bounds[1:], [y, y], color=seen.color, lw=1.6, solid_capstyle="butt")
        axes.plot([bounds[0]], [y], marker=seen.marker, color=seen.color, ms=4.5, mec="white",
                  mew=0.4, gid="mean")  # fmt: skip
        # Where there is more room: left of a late mean, right of an early one.
        late = bounds[0] > 0.5
        axes.annotate(
            f"{interval(*bounds, digits=2)}, n = {row['n_items']}",
            (row["low"] if late else row["high"], y), xytext=(-5 if late else 5, 0),
            textcoords="offset points", va="center", ha="right" if late else "left",
        )  # fmt: skip
    axes.set_yticks(range(len(order)), [label(name, 14) for name in order])
    axes.set_ylim(len(order) - 0.4, -0.6)
    name_depths(axes)
    axes.tick_params(which="both", labelbottom=True)
    axes.set_xlabel("relative depth (0 = first layer, 1 = last)")
    axes.spines[["top", "right"]].set_visible(False)
