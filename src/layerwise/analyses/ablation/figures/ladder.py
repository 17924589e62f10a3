"""The ladder of scoring: for each task, what every layer costs from the letter to free text.

It reads the ladder's table only.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from layerwise.presentation.grid import abreast, legend_below, panel_grid, set_title
from layerwise.presentation.layer_axis import name_layers
from layerwise.presentation.lettering import characters, label
from layerwise.presentation.panels import tasks_in_order
from layerwise.presentation.rows import layers_of, numbers, rows
from layerwise.presentation.style import FULL_WIDTH, styled
from layerwise.presentation.wording import (
    LAYER_MAIN,
    RUNG_ORDER,
    capitalised,
    doing,
    in_order,
    number,
    spread,
)

from .role_map import HATCH, color_map, mark, share_bar

_ROW = 0.17


@styled
def ladder(
    table: pd.DataFrame,
    kind: str = LAYER_MAIN[0],
    site: str = LAYER_MAIN[1],
    width: float = FULL_WIDTH,
) -> Figure:
    """What each layer costs on every rung of scoring, a panel per task.

    Args:
        table: the table ``ladder.parquet``.
        kind: the kind of intervention shown.
        site: its site.
        width: the widest the figure may be, inches.

    Returns:
        Rungs run down from the letter to free generation, layers across. Colour is the share lost
        of what is above the floor (accuracy, or nats of the margin), clipped to 0 to 1; a dot marks
        a loss that is significant after Holm's correction; hatched rungs have no signal. At the
        right of each rung: the intact model's accuracy in percent, or its margin in nats.
    """
    shown = rows(table, kind=kind, site=site)
    rungs, layers = in_order(shown["rung"], RUNG_ORDER), layers_of(shown)
    tasks = tasks_in_order(shown)
    height = _ROW * len(rungs) + 0.75
    figure, panels = panel_grid(len(tasks), width, 2.9, height, extra=1.2)
    cell = (figure.get_figwidth() / abreast(panels) - 1.5) / len(layers)
    for task, axes in zip(tasks, panels, strict=True):
        mine = rows(shown, task=task)
        for i, rung in enumerate(rungs):
            _draw_rung(axes, i, rows(mine, rung=rung).set_index("layer").reindex(layers), cell)
        first = mine.iloc[0]
        words = f"{first['task']} ({first['capability']}, n = {spread(mine['n_items'])})"
        axes.set_title(label(words, characters(figure.get_figwidth() / abreast(panels) - 0.9)),
                       loc="left", pad=3)  # fmt: skip
        axes.spines[:].set_visible(False)
    _label(panels, rungs, layers, cell)
    action = capitalised(doing(kind, site, "one layer"))
    set_title(figure, f"{action}: what is lost, from naming a letter to free generation")
    silent = Patch(label="no signal: intact model not better than blind", **HATCH)
    legend_below(figure, [mark("significant loss (Holm, p < 0.05)", "o"), silent])
    share_bar(figure, panels, 0.1 / (height * len(panels) / abreast(panels)), 0.03)
    return figure


def _label(panels: list[Axes], rungs: list[str], layers: list[int], cell: float) -> None:
    n = abreast(panels)
    panels[0].set_ylim(len(rungs), 0)
    panels[0].set_xlim(0, len(layers))
    for i, axes in enumerate(panels):
        axes.set_yticks(np.arange(len(rungs)) + 0.5, rungs)
        axes.tick_params(length=0, labelleft=i % n == 0)
        name_layers(axes, "x", layers, cell * len(layers), 0.2, cells=True)
    for axes in panels[-n:]:
        axes.set_xlabel("layer")


def _draw_rung(axes: Axes, row: int, line: pd.DataFrame, cell: float) -> None:
    n, there = len(line), line.dropna(subset=["intact"])
    if len(there):
        nats = there["unit"].iloc[0] == "nats"
        value = float(there["intact"].iloc[0])
        text = f"{number(value, 1)} nats" if nats else f"{number(100 * value)} %"
        axes.text(n, row + 0.5, f" {text}", va="center", ha="left")
    if not set(line["signal"]) & {True}:
        axes.add_patch(Rectangle((0, row), n, 1, **HATCH))
        return
    share = numbers(line, "share_lost").clip(0, 1)[None]
    axes.pcolormesh(
        np.arange(n + 1), [row, row + 1], share, cmap=color_map(), vmin=0, vmax=1,
        edgecolors="white", linewidth=0.3,
    )  # fmt: skip
    lost = line["significant"].isin([True]) & (numbers(line, "loss") > 0)
    x = np.flatnonzero(lost) + 0.5
    points = float(np.clip(min(_ROW, cell) * 72 * 0.42, 1.6, 5))
    axes.scatter(
        x, np.full(len(x), row + 0.5), s=points**2, marker="o", c="white", edgecolors="black",
        linewidths=0.45, zorder=3, gid=f"significant {row}",
    )  # fmt: skip
