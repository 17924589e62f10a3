"""Heat maps, strips and triangles: cells in colour, marks on them, and hatched cells without."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from layerwise.presentation.layer_axis import layer_ticks, name_layers
from layerwise.presentation.lettering import characters, label
from layerwise.presentation.naming import name_layer, stacks
from layerwise.presentation.rows import by_task, layers_in, numbers, records, rows
from layerwise.presentation.section import basis, bounds, change_key
from layerwise.presentation.style import figure_from_axes
from layerwise.presentation.wording import in_order, number, protocol_words, spread

from .marks import note, points
from .panels import Bar, Panels, rows_and_columns

# White to dark blue-green: even steps of lightness, so that it survives a grey print.
SHARES: Colormap = sns.color_palette("mako_r", as_cmap=True)  # type: ignore[assignment]
# Blue below 0, white, red above.
DIVERGING: Colormap = sns.color_palette("vlag", as_cmap=True)  # type: ignore[assignment]
ABSENT = "0.85"
HATCH: dict[str, Any] = {
    "facecolor": "0.94", "edgecolor": "0.6", "hatch": "////", "linewidth": 0
}  # fmt: skip
LOST = Bar(SHARES, 0.0, 1.0, "share of above-floor accuracy lost (0 = none, 1 = all; clipped)")
_SEPARATE = 40  # cells of a side, above which they have no edges
_DOT: dict[str, Any] = {"color": "white", "mec": "black", "mew": 0.45}
Row = dict[str, Any]


@dataclass(frozen=True)
class Mark:
    """A cell's marker with its meaning, and the cells that it stands on."""

    meaning: str
    on: Callable[[Row], bool]
    marker: str = "o"
    gid: str = "significant"
    looks: dict[str, Any] = field(default_factory=dict)


def is_significant(column: str = "acc_diff", sign: int = 1) -> Callable[[Row], bool]:
    """True if a row's change is significant, and has a sign."""
    return lambda row: row["significant"] is True and sign * row[column] > 0


LOSS = "significant loss (Holm, p < 0.05)"


@dataclass(frozen=True)
class Cells:
    """Numbers in rows and columns, with marks."""

    values: Float[np.ndarray, "down across"]  # nan where there is none
    tooltips: tuple[tuple[int, int, str, str], ...]  # places, texts, and whose items changed
    marked: tuple[tuple[Mark, tuple[tuple[int, int], ...]], ...]  # places by their mark


def cells(
    table: pd.DataFrame,
    value: str,
    down: tuple[str, Sequence[Hashable]],
    across: tuple[str, Sequence[Hashable]],
    marks: Iterable[Mark] = (),
    tell: Callable[[Row], str] | None = None,
) -> Cells:
    """Cells from a table with a row for each."""
    (row_of, names), (column_of, columns) = down, across
    place = {name: y for y, name in enumerate(names)}, {name: x for x, name in enumerate(columns)}
    listed = [(place[0][row[row_of]], place[1][row[column_of]], row) for row in records(table)]
    values = np.full((len(names), len(columns)), np.nan)
    for y, x, row in listed:
        values[y, x] = np.nan if pd.isna(row[value]) else row[value]
    words = tell or (lambda row: number(row[value], 2))
    known = ((y, x, row) for y, x, row in listed if not pd.isna(row[value]))
    tooltips = tuple((y, x, f"{words(row)}{basis(row)}", change_key(row)) for y, x, row in known)
    marked = tuple((mark, tuple((y, x) for y, x, row in listed if mark.on(row))) for mark in marks)
    return Cells(values, tooltips, marked)


def share_lost_tooltip(row: Row) -> str:
    """The tooltip of a share lost."""
    return f"{bounds(row, 'share_lost', 'share_low', 'share_high', 100)} % lost"


def draw_heat(
    axes: Axes, shown: Cells, bar: Bar, room: tuple[float, float], *,
    edges: np.ndarray | None = None, absent: str = "none",
) -> None:  # fmt: skip
    """Draw cells in their colours, the first row above, with their marks."""
    n_down, n_across = shown.values.shape
    edges = np.arange(n_across + 1.0) if edges is None else edges
    cell = min(room[0] / n_across, room[1] / n_down)
    apart = max(n_down, n_across) <= _SEPARATE
    axes.set_facecolor(absent)
    axes.pcolormesh(
        edges, np.arange(n_down + 1), np.ma.masked_invalid(shown.values), cmap=bar.colors,
        vmin=bar.low, vmax=bar.high, edgecolors="white" if apart else "none",
        linewidth=0.3 if apart else 0.0, gid="cells",
    )  # fmt: skip
    middles = (edges[:-1] + edges[1:]) / 2
    size = float(np.clip(cell * 72 * 0.42, 1.6, 5.0))
    for mark, places in shown.marked:
        if not places:
            continue
        at = np.array(places, dtype=int)
        looks = {**_DOT, "ms": size} | mark.looks
        x, y = middles[at[:, 1]], at[:, 0] + 0.5
        points(axes, x, y, mark.marker, mark.gid, mark.meaning, **looks)
    for y, x, text, change in shown.tooltips:
        figure_from_axes(axes).add_tooltip(axes, (edges[x], y, edges[x + 1], y + 1.0), text, change)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(n_down, 0)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def hatch(
    axes: Axes, x: float | int, y: float | int, across: float | int, down: float | int
) -> None:
    """Hatch cells of what has no signal."""
    axes.add_patch(Rectangle((x, y), across, down, **HATCH))
    note(axes, Patch(label="no signal: intact model not better than blind", **HATCH))


# Inches of a map of heads at least, and of a label of its columns.
_LEAST, _TICK = 1.45, 0.24
Column = tuple[str, int]
"""A group of heads by its letter, and a head of it; -1 for what is no head and named instead."""


def head_maps(
    shown: Sequence[tuple[Sequence[str], pd.DataFrame]],
    value: str,
    bar: Bar,
    title: str,
    width: float,
    *,
    heads: str = "head",
    columns: Sequence[Column] | None = None,
    mark: str = "",
    marked: str = "significant",
    tell: Callable[[Row], str] | None = None,
) -> Figure:
    """Layers by heads, a panel for each table; grey is not there or has no number."""
    marks = [Mark(mark, lambda row: row[marked] is True)]
    words = tell or (lambda row: number(row[value], 2))
    every = pd.concat([table for _, table in shown])
    layers = layers_in(every)
    if columns is None:
        columns = [("", head) for head in sorted({int(head) for head in every["head"]})]
    down, _ = rows_and_columns(len(shown), width, _LEAST)
    height = map_height(len(layers), 0.11, 3.6 if down == 1 else 2.2)
    panels = Panels([lines for lines, _ in shown], width, (height,), least=_LEAST, most=2.4)
    for axes, (_, table) in zip(panels.flat, shown, strict=True):
        if "column" not in table:
            table = table.assign(column=[("", int(head)) for head in table["head"]])
        drawn = cells(
            table, value, ("layer", layers), ("column", columns), marks,
            lambda row: f"{name_layer(row['layer'])}.{_column(*row['column'])}: {words(row)}",
        )  # fmt: skip
        draw_heat(axes, drawn, bar, (panels.room, height), absent=ABSENT)
        _name_columns(axes, columns, panels.room)
        name_layers(axes, "y", layers, height, cells=True)
    return panels.finish(title, heads, ["layer"], bar)


def _column(group: str, head: int) -> str:
    return group if head < 0 else f"{group}{head}"


def _name_columns(axes: Axes, columns: Sequence[Column], room: float) -> None:
    """Numbers of heads as they fit, and a line between groups of them."""
    ticks, column, start = {}, room / len(columns), len(columns)
    for group in reversed(list(dict.fromkeys(group for group, _ in columns))):
        heads = [head for of, head in columns if of == group]
        size = _TICK + 0.06 * len(group)
        for head in heads if heads == [-1] else layer_ticks(heads, column * len(heads), size):
            place = columns.index((group, head))
            if start == len(columns) or (start - place) * column > 0.3:
                ticks[place] = _column(group, head)
        start = columns.index((group, heads[0]))
        if start:
            axes.axvline(start, color="0.6", lw=0.5)
    axes.set_xticks([place + 0.5 for place in ticks], list(ticks.values()))


def map_height(n_layers: int, each: float, most: float) -> float:
    """Inches of a map of layers from above, with room for the names of stacks along its axis."""
    return float(np.clip(each * n_layers, 1.1 if stacks().n_encoder else 0.8, most))


def colour_limit(table: pd.DataFrame, column: str) -> float:
    """The share at which colours end: the largest in a column, rounded up, from 0.1 to 1."""
    largest = np.nanmax(np.abs(numbers(table, column)), initial=0.0)
    return min(1.0, max(0.1, math.ceil(10 * float(largest)) / 10))


ROW = 0.17  # inches of a row of a strip


@dataclass(frozen=True)
class Strip:
    """A panel of named rows over layers."""

    title: Sequence[str]  # the lines above it
    names: Sequence[str]  # of the rows, from above
    cells: Cells
    silent: Sequence[int] = ()  # rows without signal, which are hatched
    right: Sequence[str] = ()  # what stands at the right of the rows
    edges: np.ndarray | None = None  # of the cells; if None a cell is a layer


def loss_strips(
    shown: pd.DataFrame, named: str, order: tuple[str, ...], layers: list[int],
    marks: Sequence[Mark], tell: Callable[[Row], str], width: float, *, left: float,
    right: float = 0.1, least: float = 2.9, beside: Callable[[Row], str] | None = None,
) -> Panels:  # fmt: skip
    """A panel per task of shares lost: ways of scoring over the layers; empty without signal."""
    listed = []
    for _, part in by_task(shown):
        first, lit = part.iloc[0], rows(part, signal=True)
        names = in_order((shown if beside else part)[named], order)
        there = {row[named]: row for row in records(part)}
        listed.append(Strip(
            [f"{first['task']} ({first['capability']}, n = {spread(part['n_items'])})"],
            list(map(protocol_words, names)),
            cells(lit, "share_lost", (named, names), ("layer", layers), marks, tell),
            [i for i, name in enumerate(names) if name in there and name not in set(lit[named])],
            [beside(there[name]) if name in there else "" for name in names] if beside else (),
        ))  # fmt: skip
    panels = strips(listed, width, left=left, right=right, least=least)
    panels.over_layers(layers, cells=True)
    return panels


def strips(
    shown: Sequence[Strip], width: float, *, left: float, right: float = 0.1, least: float = 2.9
) -> Panels:
    """Panels of strips with their rows' names; the axis below, title and legend are to be added."""
    most = max(len(strip.names) for strip in shown)
    panels = Panels(
        [strip.title for strip in shown], width, (ROW * most,), least=least, most=width, left=left,
        share="x",
    )  # fmt: skip
    panels.room -= right + (left if panels.across > 1 else 0.0) * (1 - 1 / panels.across)
    for axes, strip in zip(panels.flat, shown, strict=True):
        draw_heat(axes, strip.cells, LOST, (panels.room, ROW * len(strip.names)), edges=strip.edges)
        start, end = axes.get_xlim()
        for row in strip.silent:
            hatch(axes, start, row, end - start, 1.0)
        for row, text in enumerate(strip.right):
            axes.text(end, row + 0.5, f" {text}", va="center", ha="left")
        fits = characters(left - 0.15)
        names = [label(name, fits) for name in strip.names]
        axes.set_yticks(np.arange(len(names)) + 0.5, names)
        axes.set_ylim(most, 0)
    return panels
