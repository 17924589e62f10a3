"""Cells in colour, marks on them, and what has no colour: maps, strips and triangles."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.patches import Patch, Rectangle

from layerwise.presentation.rows import records
from layerwise.presentation.section import basis, bounds, change_of
from layerwise.presentation.style import figure_of
from layerwise.presentation.wording import number

from .marks import note, points
from .panels import Bar

# White to dark blue-green: even steps of lightness, so that it survives a grey print.
SHARES: Colormap = sns.color_palette("mako_r", as_cmap=True)  # type: ignore[assignment]
# Blue below 0, white, red above.
DIVERGING: Colormap = sns.color_palette("vlag", as_cmap=True)  # type: ignore[assignment]
ABSENT = "0.85"
HATCH: dict[str, Any] = {
    "facecolor": "0.94", "edgecolor": "0.6", "hatch": "////", "linewidth": 0
}  # fmt: skip
LOST = Bar(SHARES, 0.0, 1.0, "share of above-floor accuracy lost (0 = none, 1 = all; clipped)")
_SEPARATE = 40
_DOT: dict[str, Any] = {"color": "white", "mec": "black", "mew": 0.45}
Row = dict[str, Any]


@dataclass(frozen=True)
class Mark:
    """What stands on a cell: its marker and meaning, and on which cells it stands."""

    meaning: str
    on: Callable[[Row], bool]
    marker: str = "o"
    gid: str = "significant"
    looks: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Cells:
    """Numbers in rows and columns, with marks.

    Attributes:
        values: nan where there is none.
        tooltips: of a cell its place, a text, and whose items changed.
        marked: places of cells by the mark that stands on them.
    """

    values: Float[np.ndarray, "down across"]
    tooltips: tuple[tuple[int, int, str, str], ...]
    marked: tuple[tuple[Mark, tuple[tuple[int, int], ...]], ...]


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
    tooltips = tuple((y, x, f"{words(row)}{basis(row)}", change_of(row)) for y, x, row in known)
    marked = tuple((mark, tuple((y, x) for y, x, row in listed if mark.on(row))) for mark in marks)
    return Cells(values, tooltips, marked)


def lost(row: Row) -> str:
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
        figure_of(axes).tell(axes, (edges[x], y, edges[x + 1], y + 1.0), text, change)
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
