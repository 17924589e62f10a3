"""The figures of this study: what healing brings back, and which layers do it then.

They read the study's own tables only.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from layerwise.presentation.charts.panels import add_figure_legend
from layerwise.presentation.rows import rows
from layerwise.presentation.style import COLUMN_WIDTH, look, new_figure, with_style

# The layers that are left out in each case.
CASES = {"spare": (1,), "two-hops": (4,), "facts": (0,), "two": (3, 6)}
TASKS = {
    "look-up": "look-ups", "facts": "facts", "two-hops": "two hops", "brackets": "brackets",
}  # fmt: skip
HOSTS = {"teacher": "original", "student": "pruned", "distilled": "healed"}
# Cases, and what is looked at in each.
PLACES = (
    ("two-hops", "two-hops"), ("facts", "facts"), ("two", "look-up"), ("two", "two-hops"),
    ("two", "brackets"), ("spare", "two-hops"),
)  # fmt: skip
N_LAYERS = 8
ORIGINAL = "original"


@with_style
def recovery_figure(gains: pd.DataFrame) -> Figure:
    """Accuracy under ``generate`` of originals, pruned and healed models, by suite and case.

    Long marks are means over the training seeds, small ones are seeds.

    Args:
        gains: ``gains.parquet`` of the study.
    """
    figure = new_figure(COLUMN_WIDTH, 3.6)
    grid = figure.subplots(2, 2, sharex=True, sharey=True)
    for axes, (task, title) in zip(grid.ravel(), TASKS.items(), strict=True):
        told = rows(gains, task=task, protocol="generate")
        for i, host in enumerate(HOSTS):
            _marks(axes, told, host, i)
        axes.set_title(title, loc="left")
        axes.set_xticks(range(len(CASES)), [", ".join(map(str, one)) for one in CASES.values()])
        axes.set_xlim(-0.6, len(CASES) - 0.4)
        axes.set_ylim(-5, 105)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in grid[1]:
        axes.set_xlabel("layers left out")
    for axes in grid[:, 0]:
        axes.set_ylabel("right (%)")
    add_figure_legend(figure, grid[0, 0].get_legend_handles_labels()[0])
    return figure


def _marks(axes: Axes, told: pd.DataFrame, host: str, index: int) -> None:
    seen = look(index)
    for place, case in enumerate(CASES):
        at = place + 0.25 * (index - 1)
        right = 100 * rows(told, case=case)[f"acc_{host}"].astype(float)
        axes.plot([at] * len(right), right, ls="", marker=seen.marker, ms=3, mew=0, alpha=0.7,
                  color=seen.color, label=HOSTS[host] if not place else None)  # fmt: skip
        axes.plot([at - 0.11, at + 0.11], [right.mean()] * 2, lw=1.2, color=seen.color)


@with_style
def layer_losses_figure(layers: pd.DataFrame) -> Figure:
    """Losses without each layer, in originals and in healed models, by original layer.

    Lines are means over the training seeds, marks are seeds; grey is what was left out.

    Args:
        layers: ``layers.parquet`` of the study.
    """
    figure = new_figure(COLUMN_WIDTH, 4.9)
    grid = figure.subplots(3, 2, sharex=True, sharey=True)
    for axes, (case, task) in zip(grid.ravel(), PLACES, strict=True):
        for i, (host, label) in enumerate(((ORIGINAL, "original"), (case, "healed"))):
            _line(axes, rows(layers, case=host, task=task, protocol="generate"), 2 * i, label)
        for layer in CASES[case]:
            axes.axvspan(layer - 0.5, layer + 0.5, color="0.9", lw=0, zorder=0)
        left_out = " and ".join(map(str, CASES[case]))
        axes.set_title(f"{TASKS[task]},\nwithout {left_out}", loc="left")
        axes.axhline(0, color="0.6", lw=0.5, zorder=0)
        axes.set_xlim(-0.5, N_LAYERS - 0.5)
        axes.set_ylim(-25, 135)
        axes.set_xticks(range(N_LAYERS))
        axes.spines[["top", "right"]].set_visible(False)
    for axes in grid[-1]:
        axes.set_xlabel("layer of the original")
    grid[1, 0].set_ylabel("lost without the layer (%)")
    add_figure_legend(figure, grid[-1, -1].get_legend_handles_labels()[0])
    return figure


def _line(axes: Axes, table: pd.DataFrame, index: int, label: str) -> None:
    table = table.dropna(subset="share_lost")
    if table.empty:
        axes.text(0.98, 0.86, f"{label}: no signal", transform=axes.transAxes, ha="right")
        return
    seen, each = look(index), table.assign(percent=100 * table["share_lost"])
    mean = each.groupby("original")["percent"].mean()
    axes.plot(mean.index, mean, color=seen.color, ls=seen.linestyle, lw=1.1, label=label)
    axes.plot(each["original"], each["percent"], ls="", marker=seen.marker, ms=2.6, mew=0,
              color=seen.color, alpha=0.7)  # fmt: skip
