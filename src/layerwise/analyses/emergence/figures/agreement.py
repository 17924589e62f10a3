"""Whether methods place a capability at the same depth and rank layers alike.

It reads a table of agreement only.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from layerwise.presentation.grid import legend_below, set_title
from layerwise.presentation.lettering import label
from layerwise.presentation.panels import protocol_handles
from layerwise.presentation.rows import numbers, records, rows
from layerwise.presentation.style import COLUMN_WIDTH, FULL_WIDTH, new_figure, protocol_look, styled
from layerwise.presentation.wording import CAPABILITY_ORDER, PROTOCOL_ORDER, in_order

_MEASURES = {
    "half-effect depth": "difference of half-effect depth\n(relative; second minus first)",
    "rank correlation": "rank correlation over layers",
}
_ROW, _STEP, _FOR_TWO = 0.24, 0.24, 4.8


@styled
def agreement_ranges(agreement: pd.DataFrame, width: float = FULL_WIDTH) -> Figure:
    """Differences of depth and rank correlations of every two methods, with intervals.

    Args:
        agreement: the table ``method_agreement.parquet``.
        width: the widest the figure may be, inches.

    Returns:
        A row of panels per pair of methods; left the difference of half-effect depth, right
        the correlation (below, where the figure is narrow); a row per capability, a point per
        protocol. Filled points differ from 0 after Holm's correction, depths by no less than is
        of interest.
    """
    capabilities = in_order(agreement["capability"], CAPABILITY_ORDER)
    protocols = in_order(agreement["protocol"], PROTOCOL_ORDER)
    pairs = in_order(zip(agreement["first"], agreement["second"], strict=True), ())
    across = 2 if width >= _FOR_TWO else 1
    plan = [(pair, measure) for pair in pairs for measure in _MEASURES]
    if across == 1:
        plan.sort(key=lambda each: list(_MEASURES).index(each[1]))
    down = len(plan) // across
    figure = new_figure(
        max(min(width, 6.4), COLUMN_WIDTH), down * (_ROW * len(capabilities) + 0.42) + 1.1
    )
    grid = figure.subplots(down, across, sharey=True, squeeze=False).ravel()
    for axes, ((first, second), measure) in zip(grid, plan, strict=True):
        mine = rows(agreement, first=first, second=second, measure=measure)
        _draw(axes, mine, capabilities, protocols)
        axes.set_xlim(*_limits(rows(agreement, measure=measure)))
        axes.set_title(f"{label(first)}, then {label(second)}", loc="left", pad=2)
    for measure, words in _MEASURES.items():
        last = max(i for i, each in enumerate(plan) if each[1] == measure)
        grid[last].set_xlabel(words)
    set_title(figure, "Do methods agree? (95 % intervals over items)")
    legend_below(figure, [*protocol_handles(agreement), _note()])
    return figure


def _draw(axes: Axes, mine: pd.DataFrame, capabilities: list[str], protocols: list[str]) -> None:
    axes.axvline(0, color="0.6", lw=0.6)
    for row in records(mine):
        seen = protocol_look(row["protocol"])
        place = protocols.index(row["protocol"]) - (len(protocols) - 1) / 2
        y = capabilities.index(row["capability"]) + _STEP * place
        axes.plot([row["low"], row["high"]], [y, y], color=seen.color, lw=1.2, gid="interval")
        by_rank = row["measure"] == "rank correlation"
        sure = row["p_holm"] < 0.05 if by_rank else row["significant"] is True
        axes.plot([row["estimate"]], [y], marker=seen.marker, ms=3.4, mew=0.8, color=seen.color,
                  mfc=seen.color if sure else "white", gid="estimate")  # fmt: skip
    axes.set_yticks(range(len(capabilities)), [label(name, 14) for name in capabilities])
    axes.set_ylim(len(capabilities) - 0.5, -0.5)
    axes.grid(axis="x", color="0.9", lw=0.5)
    axes.spines[["top", "right"]].set_visible(False)


def _limits(every: pd.DataFrame) -> tuple[float, float]:
    """The same on both sides of 0, and in all panels of a measure."""
    values = np.abs([numbers(every, name) for name in ("estimate", "low", "high")])
    most = 1.1 * max(0.2, float(np.nanmax(values, initial=0.0)))
    return -most, most


def _note() -> Line2D:
    return Line2D([], [], ls="", marker="o", ms=3.4, mfc="white", mec="0.35",
                  label="hollow: not different from 0 (Holm)")  # fmt: skip
