"""The figure of this study: what each layer of each model is needed for, and what it brings.

It reads the study's own tables only.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from layerwise.presentation.charts.panels import add_figure_legend
from layerwise.presentation.rows import rows
from layerwise.presentation.style import FULL_WIDTH, look, new_figure, with_style

CASES = {
    "teacher": "teacher", "equal": "equal depth", "half": "half depth",
    "frozen": "layers 2 to 4 frozen",
}  # fmt: skip
# Where the teachers do two hops, as shares of the depth.
PLANTED = (2 / 8, 5 / 8)
TASKS = {"two-hops": "two hops", "look-up": "look-up"}
SETS = {
    "single": "one layer alone",
    "from_first": "all layers up to this one",
}


@with_style
def where_two_hops_went(layers: pd.DataFrame, transplant: pd.DataFrame) -> Figure:
    """Above: what skipping a layer costs. Below: what layers bring to the student as it was.

    Lines are means over the training seeds, marks are seeds.

    Args:
        layers: ``layers.parquet`` of the study.
        transplant: ``transplant.parquet`` of the study.
    """
    figure = new_figure(FULL_WIDTH, 4.3)
    grid = figure.subplots(2, len(CASES), sharey=True)
    for axes, (case, title) in zip(grid[0], CASES.items(), strict=True):
        lost = rows(layers, case=case, protocol="generate")
        for i, task in enumerate(TASKS):
            _line(axes, rows(lost, task=task), "share_lost", i, TASKS[task])
        axes.set_title(title, loc="left")
    for axes, case in zip(grid[1], CASES, strict=True):
        moved = rows(transplant, case=case, protocol="generate", direction="brings")
        for i, chosen in enumerate(SETS):
            _line(axes, rows(moved, set=chosen), "share", i + 2, SETS[chosen])
        axes.set_xlabel("layer")
    figure.delaxes(grid[1, 0])  # nothing was put into the teachers
    for place, case in zip(grid.T, CASES, strict=True):
        n_layers = int(rows(layers, case=case)["layer"].max()) + 1
        for axes in place:
            if axes in figure.axes:
                _frame(axes, n_layers)
    grid[0, 0].set_xlabel("layer")
    grid[0, 0].set_ylabel("lost without the layer (%)")
    grid[1, 1].set_ylabel("of the gain brought (%)")
    grid[1, 1].tick_params(labelleft=True)
    handles = [*grid[0, 1].get_legend_handles_labels()[0],
               *grid[1, 1].get_legend_handles_labels()[0]]  # fmt: skip
    add_figure_legend(figure, handles)
    return figure


def _line(axes: Axes, table: pd.DataFrame, column: str, index: int, label: str) -> None:
    if table.empty:
        return
    seen, each = look(index), table.assign(at=_place(table), percent=100 * table[column])
    mean = each.groupby("at")["percent"].mean()
    axes.plot(mean.index, mean, color=seen.color, ls=seen.linestyle, lw=1.1, marker="",
              label=label)  # fmt: skip
    axes.plot(each["at"], each["percent"], ls="", marker=seen.marker, ms=2.4, mew=0,
              color=seen.color, alpha=0.7)  # fmt: skip


def _place(table: pd.DataFrame) -> list[int]:
    """The layer, or the last or first one of a set that grows from an end."""
    if "set" not in table:
        return [int(layer) for layer in table["layer"]]
    ends = {"single": max, "from_first": max, "from_last": min}
    return [
        int(ends[one](layers)) for one, layers in zip(table["set"], table["layers"], strict=True)
    ]


def _frame(axes: Axes, n_layers: int) -> None:
    low, high = (share * n_layers - 0.5 for share in PLANTED)
    axes.axvspan(low, high, color="0.92", lw=0, zorder=0)
    axes.axhline(0, color="0.6", lw=0.5, zorder=0)
    axes.set_xlim(-0.5, n_layers - 0.5)
    axes.set_ylim(-25, 125)
    axes.set_xticks(range(n_layers))
    axes.spines[["top", "right"]].set_visible(False)
