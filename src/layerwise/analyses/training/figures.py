"""The pictures of this analysis, each from its tables alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from layerwise.analyses.ablation.figures.role_map import HATCH, color_map, mark, share_bar
from layerwise.presentation.grid import legend_below, rows_and_columns, set_title
from layerwise.presentation.layer_axis import name_layers
from layerwise.presentation.lettering import characters, label
from layerwise.presentation.panels import tasks_in_order
from layerwise.presentation.rows import numbers, records, rows
from layerwise.presentation.style import COLUMN_WIDTH, FULL_WIDTH, new_figure, protocol_look, styled
from layerwise.presentation.wording import spread_of

_LEAST, _MOST = 1.5, 2.6  # inches of a panel
_UPPER, _SIDE, _STEP = 0.85, 0.55, 0.36
_ONSET: dict[str, Any] = {"color": "0.1", "lw": 1.0}
_INTERVAL: dict[str, Any] = {"facecolor": "0.86", "edgecolor": "none"}
_BLIND: dict[str, Any] = {"color": "0.35", "lw": 0.8, "ls": (0, (2, 1.5))}


@styled
def training_course(
    accuracy: pd.DataFrame,
    layers: pd.DataFrame,
    onsets: pd.DataFrame,
    n_layers: int,
    protocol: str,
    width: float = FULL_WIDTH,
) -> Figure:
    """When each task is learned, and by which layers, under one protocol."""
    shown = rows(accuracy, protocol=protocol)
    tasks, steps = tasks_in_order(shown), sorted({int(step) for step in shown["step"]})
    bands, across = rows_and_columns(len(tasks), width, _LEAST)
    lower = float(np.clip(0.11 * n_layers, 0.8, 3.0))
    figure = new_figure(
        min(width, max(COLUMN_WIDTH, across * _MOST)), bands * (_UPPER + lower + 0.75) + 1.35
    )
    grid = figure.subplots(
        2 * bands, across, sharex=True, squeeze=False,
        height_ratios=[_UPPER, lower] * bands,
    )  # fmt: skip
    inches = figure.get_figwidth() / across - 0.25
    maps = []
    for place in range(bands * across):
        upper, below = (grid[2 * (place // across) + i, place % across] for i in (0, 1))
        if place >= len(tasks):
            upper.remove()
            below.remove()
            continue
        mine = {"task": tasks[place], "protocol": protocol}
        line = rows(shown, task=tasks[place]).sort_values(by="step")
        _draw_accuracy(upper, line, rows(onsets, **mine), steps)
        upper.set_title(_heading(line, inches), loc="left", pad=3)
        _draw_layers(below, rows(layers, **mine), line, n_layers, lower)
        _name_sides(upper, below, place % across == 0)
        _name_steps(below, steps, inches - _SIDE / across)
        maps.append(below)
    set_title(figure, f"What is learned when, under {label(protocol, 14)} "
              f"({spread_of([len(steps)], 'checkpoint')})")  # fmt: skip
    _explain(figure)
    share_bar(figure, maps, 0.1 / (bands * lower), pad=0.03)
    return figure


def _heading(line: pd.DataFrame, inches: float) -> str:
    first, fits = line.iloc[0], characters(inches)
    below = f"{label(str(first['capability']), 12)}, n = {first['n_items']}"
    return f"{label(str(first['task']), fits)}\n{below}"


def _draw_accuracy(
    axes: Axes, line: pd.DataFrame, onsets: pd.DataFrame, steps: Sequence[int]
) -> None:
    look, x = protocol_look(str(line["protocol"].iloc[0])), np.arange(len(steps))
    low, middle, high, blind = (
        100 * numbers(line, name) for name in ("low", "accuracy", "high", "blind")
    )
    for row in records(onsets.loc[onsets["appears"]]):
        ends = [steps.index(int(row[name])) for name in ("low", "high")]
        axes.axvspan(ends[0] - 0.5, ends[1] + 0.5, **_INTERVAL, gid="interval")
        axes.axvline(steps.index(int(row["onset"])), **_ONSET, gid="onset")
    axes.fill_between(x, low, high, color=look.color, alpha=0.2, lw=0)
    axes.plot(x, middle, color=look.color, lw=1.0, marker=look.marker, ms=1.6, gid="accuracy")
    axes.plot(x, blind, **_BLIND, gid="blind")
    axes.set_ylim(-4, 104)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_layers(
    axes: Axes, mine: pd.DataFrame, line: pd.DataFrame, n_layers: int, inches: float
) -> None:
    signal = line["signal"].to_numpy(dtype=bool)
    steps = [int(step) for step in line["step"]]
    shares = mine.pivot(index="layer", columns="step", values="share_lost")
    shares = shares.reindex(index=range(n_layers), columns=steps).to_numpy(dtype=float, copy=True)
    shares[:, ~signal] = np.nan
    edges = np.arange(len(steps) + 1) - 0.5
    axes.add_patch(Rectangle((-0.5, 0), len(steps), n_layers, **HATCH))
    axes.pcolormesh(
        edges, np.arange(n_layers + 1), np.ma.masked_invalid(shares.clip(0, 1)), cmap=color_map(),
        vmin=0, vmax=1, gid="layers",
    )  # fmt: skip
    sure = mine.loc[mine["significant"].to_numpy(dtype=bool)]
    x = [steps.index(int(step)) for step in sure["step"]]
    axes.scatter(
        x, numbers(sure, "layer") + 0.5, s=3.2, c="white", edgecolors="black", linewidths=0.3,
        zorder=3, gid="significant loss",
    )  # fmt: skip
    axes.set_xlim(-0.5, len(steps) - 0.5)
    axes.set_ylim(n_layers, 0)
    name_layers(axes, "y", list(range(n_layers)), inches, cells=True)
    axes.spines[:].set_visible(False)
    axes.tick_params(axis="y", length=0)


def _name_sides(upper: Axes, below: Axes, is_first: bool) -> None:
    upper.tick_params(labelbottom=False)
    if is_first:
        upper.set_ylabel("accuracy (%)")
        below.set_ylabel("layer")
        return
    upper.tick_params(labelleft=False)
    below.tick_params(which="both", labelleft=False)


def _name_steps(axes: Axes, steps: Sequence[int], room: float) -> None:
    """As many steps under the columns as fit, the last one among them."""
    most = max(2, int(room / _STEP))
    apart = int(np.ceil((len(steps) - 1) / (most - 1))) if len(steps) > 1 else 1
    ticks = list(range(len(steps) - 1, -1, -apart))[::-1]
    axes.set_xticks(ticks, [f"{steps[tick]:g}" for tick in ticks])
    axes.tick_params(axis="x", labelbottom=True)
    axes.set_xlabel("step (a column each)")


def _explain(figure: Figure) -> None:
    legend_below(
        figure,
        [
            Line2D([], [], **_ONSET, label="onset"),
            Patch(label="where it may lie (95 %)", **_INTERVAL),
            Line2D([], [], **_BLIND, label="asked other items' questions"),
            mark("significant loss (Holm, whole series)", "o"),
            Patch(label="no signal", **HATCH),
        ],
    )
