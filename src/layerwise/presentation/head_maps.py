"""Heat maps of layers by heads: the panels, their colours, marks and shared axes.

Which table is shown, and what is said about it, is the business of each figure.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure

from .grid import abreast, layer_ticks, panel_grid, rows_and_columns
from .layer_axis import name_layers
from .lettering import characters, label
from .naming import stacks
from .panels import tasks_in_order
from .rows import layers_of, numbers, rows
from .wording import spread

DIVERGING: Colormap = sns.color_palette("vlag", as_cmap=True)  # type: ignore[assignment]
_LEAST, _TICK = 1.45, 0.24
ABSENT = "0.85"


def task_head_maps(
    shown: pd.DataFrame, column: str, largest: float, unit: str, width: float, heads: str = "head"
) -> Figure:
    """A panel of layers by heads for each task, with dots on what is significant."""
    tasks, layers = tasks_in_order(shown), layers_of(shown)
    down, _ = rows_and_columns(len(tasks), width, _LEAST)
    least = 1.1 if stacks().n_encoder else 0.8  # the stacks' names stand along the axis
    height = float(np.clip(0.11 * len(layers), least, 3.6 if down == 1 else 2.2))
    figure, panels = panel_grid(len(tasks), width, _LEAST, height + 0.5, most=2.4, extra=1.2)
    room = figure.get_figwidth() / abreast(panels) - 0.45
    for axes, task in zip(panels, tasks, strict=True):
        mine = rows(shown, task=task)
        head_map(axes, mine, column, DIVERGING, (-largest, largest), (room, height))
        mark_heads(axes, mine, rows(mine, significant=True), "0.1")
        name = label(task, characters(room))
        kind = label(str(mine["capability"].iloc[0]), 12)
        axes.set_title(f"{name}\n{kind}, n = {spread(mine['n_items'])}", loc="left", pad=3)
    colors = ScalarMappable(Normalize(-largest, largest), DIVERGING)
    finish_heads(figure, panels, colors, unit, 0.1 / (height * down), heads)
    return figure


def head_map(
    axes: Axes,
    table: pd.DataFrame,
    column: str,
    colors: Colormap,
    limits: tuple[float, float],
    room: tuple[float, float],
) -> None:
    """A heat map of one column, a row per layer (0 above) and a column per head.

    Grey: the column is null, or there is no such head.
    """
    wide = table.pivot_table(index="layer", columns="head", values=column).astype(float)
    wide = wide.reindex(index=layers_of(table), columns=sorted(set(table["head"])))
    axes.set_facecolor(ABSENT)
    axes.pcolormesh(wide.to_numpy(), cmap=colors, vmin=limits[0], vmax=limits[1], rasterized=False)
    layers, heads = ([int(name) for name in names] for names in (wide.index, wide.columns))
    ticks = layer_ticks(heads, room[0], _TICK)
    axes.set_xticks([heads.index(tick) + 0.5 for tick in ticks], [str(tick) for tick in ticks])
    name_layers(axes, "y", layers, room[1], cells=True)
    axes.tick_params(length=0)
    axes.set_ylim(len(layers), 0)
    axes.spines[:].set_visible(False)


def finish_heads(
    figure: Figure,
    panels: list[Axes],
    colors: ScalarMappable,
    unit: str,
    fraction: float,
    heads: str = "head",
) -> Colorbar:
    """Names of the axes, and the bar of colours, for panels of layers by heads."""
    for axes in panels[:: abreast(panels)]:
        axes.set_ylabel("layer")
    for axes in panels[-abreast(panels) :]:
        axes.set_xlabel(heads)
    bar = figure.colorbar(
        colors, ax=panels, location="bottom", pad=0.03, fraction=fraction, aspect=25
    )
    bar.set_label(unit)
    bar.ax.spines[:].set_linewidth(0.4)
    return bar


def mark_heads(axes: Axes, mine: pd.DataFrame, chosen: pd.DataFrame, color: str) -> None:
    """Dots on the chosen heads of a heat map of ``mine``; ``color`` is a grey from 0 to 1."""
    layers = {layer: i for i, layer in enumerate(layers_of(mine))}
    x = numbers(chosen, "head") + 0.5
    y = np.array([layers[int(layer)] + 0.5 for layer in chosen["layer"]])
    edge = "white" if float(color) < 0.5 else "0.1"  # so that it stands out from any colour
    axes.plot(x, y, ls="", marker="o", ms=2.2, mew=0.4, mec=edge, c=color, gid="marked")


def scale_of(shown: pd.DataFrame, column: str) -> float:
    """The share at which colours end: the largest in a column, rounded up, from 0.1 to 1."""
    largest = np.nanmax(np.abs(shown[column].to_numpy(dtype=float)), initial=0.0)
    return min(1.0, max(0.1, math.ceil(10 * float(largest)) / 10))
