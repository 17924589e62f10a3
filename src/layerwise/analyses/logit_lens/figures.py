"""The pictures of this analysis, each from its tables alone."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from layerwise.presentation.grid import rows_and_columns, set_title
from layerwise.presentation.layer_axis import name_depths, name_layers
from layerwise.presentation.lettering import characters, label
from layerwise.presentation.over_items import Curve, mean_curve, median_curve
from layerwise.presentation.rows import layers_of, numbers, records, rows
from layerwise.presentation.style import COLUMN_WIDTH, FULL_WIDTH, look, new_figure, styled
from layerwise.presentation.wording import (
    CAPABILITY_ORDER,
    PROTOCOL_ORDER,
    capitalised,
    in_order,
    interval,
    spread_of,
)

from .tables import LENS_ORDER

MEASURES = ("logprob", "rank", "entropy", "kl")
_NAMES = {
    "logprob": "answer's log-\nprobability (nats)",
    "rank": "answer's median\nrank (1 = top)",
    "entropy": "entropy\n(nats)",
    "kl": "KL to final\n(nats)",
}
_TASKS_IN_COLUMN, _LEAST = 4, 1.6
_PANEL, _ABREAST = 2.9, 2


@dataclass(frozen=True)
class Column:
    """A column of panels: a capability, or a part of one that has many tasks."""

    heading: str
    tasks: tuple[str, ...]


@styled
def lens_curves(
    lens: pd.DataFrame,
    protocol: str | None = None,
    measures: tuple[str, ...] = MEASURES,
    width: float = FULL_WIDTH,
    seed: int = 0,
) -> Figure:
    """How the answer rises through the layers (logit lens, nostalgebraist 2020).

    Args:
        lens: the table ``lens.parquet``; of its rows those at the prompt's last position are
            drawn, by the first lens and site that there are.
        protocol: whose prompts are shown; the first in the table if None.
        measures: of ``logprob``, ``rank``, ``entropy`` and ``kl``, a row of panels each.
        width: the widest the figure may be, inches.
        seed: the seed of the bootstrap.

    Returns:
        Lines are means over items with bootstrap intervals (rank: the median with its exact
        order-statistic interval). Layer -1 is the embedding.
    """
    protocol = str(lens["protocol"].iloc[0]) if protocol is None else protocol
    shown = rows(lens, protocol=protocol, over="prompt", pos=-1)
    name, site = in_order(shown["lens"], LENS_ORDER)[0], in_order(shown["site"], ("resid_post",))[0]
    shown = rows(shown, lens=name, site=site)
    columns = _columns(shown)
    bands, abreast = rows_and_columns(len(columns), width, _LEAST)
    height = bands * (1.05 * len(measures) + 1.0) + 0.5
    figure = new_figure(min(width, max(COLUMN_WIDTH, 2.6 * abreast)), height)
    grid = figure.subplots(bands * len(measures), abreast, sharex=True, sharey=False, squeeze=False)
    panel = figure.get_figwidth() / abreast
    for i, column in enumerate(columns):
        first = (i // abreast) * len(measures)
        axes = grid[first : first + len(measures), i % abreast]
        _draw_column(dict(zip(measures, axes, strict=True)), shown, column, panel, seed)
    for spare in grid[-len(measures) :, (len(columns) - 1) % abreast + 1 :].ravel():
        spare.remove()
    _align(grid, measures, layers_of(shown), panel)
    items = [len(set(rows(shown, task=task)["item"])) for task in set(shown["task"])]
    set_title(figure, f"{capitalised(name)} lens at {site}, {label(protocol)} prompts "
              f"(n = {spread_of(items, 'item')} a task; bands: 95 % over items)")  # fmt: skip
    return figure


def _columns(shown: pd.DataFrame) -> list[Column]:
    columns = []
    for capability in in_order(shown["capability"], CAPABILITY_ORDER):
        tasks = in_order(rows(shown, capability=capability)["task"], ())
        parts = [tasks[i : i + _TASKS_IN_COLUMN] for i in range(0, len(tasks), _TASKS_IN_COLUMN)]
        for i, part in enumerate(parts, start=1):
            count = f" ({i} of {len(parts)})" if len(parts) > 1 else ""
            columns.append(Column(f"{label(str(capability), 14)}{count}", tuple(part)))
    return columns


def _draw_column(
    panels: dict[str, Axes], shown: pd.DataFrame, column: Column, inches: float, seed: int
) -> None:
    for i, task in enumerate(column.tasks):
        mine = rows(shown, task=task)
        for measure, axes in panels.items():
            curve = median_curve(mine) if measure == "rank" else mean_curve(mine, measure, seed)
            _draw_curve(axes, curve, i, _wrapped(task, characters(inches - 0.6)))
    first, *_, last = [*panels.values(), *panels.values()]
    first.set_title(column.heading, loc="left", fontweight="bold", pad=3)
    last.tick_params(which="both", labelbottom=True)
    last.set_xlabel("layer (−1: embedding)")
    last.legend(
        loc="upper left", bbox_to_anchor=(-0.1, -0.48), frameon=False, handlelength=2.2,
        borderaxespad=0, handletextpad=0.5, labelspacing=0.3,
    )  # fmt: skip


def _wrapped(task: str, fits: int) -> str:
    """The name on two lines at most, with as much of it as they hold."""
    for longest in range(2 * fits, fits, -1):
        lines = textwrap.wrap(label(task, longest), fits, break_on_hyphens=False)
        if len(lines) <= 2:
            return "\n".join(lines)
    return label(task, fits)


def _draw_curve(axes: Axes, curve: Curve, index: int, name: str) -> None:
    seen = look(index)
    every = max(1, len(curve.layers) // 12)
    axes.plot(
        curve.layers, curve.middle, color=seen.color, ls=seen.linestyle, marker=seen.marker,
        markevery=every, ms=2.8, lw=0.9, label=name,
    )  # fmt: skip
    axes.fill_between(curve.layers, curve.low, curve.high, color=seen.color, alpha=0.22, lw=0)


def _align(grid: np.ndarray, measures: tuple[str, ...], layers: list[int], inches: float) -> None:
    """Give a measure one scale in all columns, so that capabilities can be compared."""
    shown = [layer for layer in layers if layer >= 0]
    for row, panels in enumerate(grid):
        live = [axes for axes in panels if axes.figure is not None]
        measure = measures[row % len(measures)]
        for axes in live:
            _scale(axes, measure)
            name_layers(axes, "x", shown, inches - 0.6, 0.26)
            axes.spines[["top", "right"]].set_visible(False)
        bounds = np.array([_bounds(axes, measure) for axes in live])
        limits = (bounds.max(), bounds.min()) if measure == "rank" else None
        for i, axes in enumerate(live):
            axes.set_ylim(limits or (bounds.min(), bounds.max()))
            axes.tick_params(labelleft=i == 0)
        live[0].set_ylabel(_NAMES[measure])


def _bounds(axes: Axes, measure: str) -> tuple[float, float]:
    """The scale's ends; the embedding may lie beyond it.

    An embedding read through the unembedding is sure of a wrong token, at some 100 nats, next
    to which the layers would all look alike.
    """
    if measure == "rank":
        return axes.get_ylim()
    x, y = (
        np.concatenate([np.asarray(get(line), dtype=float) for line in axes.get_lines()])
        for get in (Line2D.get_xdata, Line2D.get_ydata)
    )
    values = y[x >= 0] if (x >= 0).any() else y
    margin = 0.06 * (float(np.ptp(values)) or 1.0)
    return float(values.min()) - margin, float(values.max()) + margin


def _scale(axes: Axes, measure: str) -> None:
    if measure == "rank":
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(_plain))
        axes.minorticks_off()


def _plain(value: float, _position: int | None) -> str:
    if value < 1:
        return ""
    return f"{value:.0f}" if value < 1000 else f"{value / 1000:.0f}k"


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
