"""Grids as figures, and the colours of their cells. Only tables are read."""

from __future__ import annotations

import math
from textwrap import fill
from typing import TYPE_CHECKING, Any

import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize, to_hex
from matplotlib.figure import Figure

from layerwise.presentation.lettering import characters, label
from layerwise.presentation.style import FONT, FULL_WIDTH, inches, look, new_figure, styled

from .cells import SIGNED, Cells, Panel

if TYPE_CHECKING:
    import pandas as pd

_SMALL = 5.5
# Characters of a column's name; as many as "cross-attention" has.
_LONGEST = 15
# Inches: the height of a row with text, the least width of a cell with text, room for names.
_ROW, _WIDE, _NAMES = 0.145, 0.24, 0.75
# A panel of a single row is no taller than its colour needs to be seen.
_LEAST = 0.5
_MOST_ROWS_LABELLED = 40


def _colors(grid: Cells) -> Colormap:
    if grid.scale == SIGNED:
        return sns.color_palette("vlag", as_cmap=True)  # type: ignore[return-value]
    return sns.light_palette("#01538a", as_cmap=True)  # type: ignore[return-value]


def colors_of(grid: Cells, value: float) -> tuple[str, str]:
    """Background and text colour of a cell, in hexadecimal."""
    if value is None or math.isnan(value):
        return "#d9d9d9", "#1a1a1a"
    low, high = grid.limits
    red, green, blue, _ = color = _colors(grid)((value - low) / (high - low))
    dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.55
    return to_hex(color), "#ffffff" if dark else "#1a1a1a"


@styled
def draw_grid(grid: Cells, width: float | str | None = None) -> Figure:
    """The heat maps of a grid, one above the other, with one scale of colours."""
    width = FULL_WIDTH if width is None else inches(width)
    across = _abreast(grid, width)
    down = math.ceil(len(grid.panels) / across)
    height = max(max(_LEAST, _ROW * len(panel.rows)) + _NAMES for panel in grid.panels)
    figure = new_figure(width, height * down)
    sizes = [max(len(each.columns) for each in grid.panels[k::across]) for k in range(across)]
    axes = figure.subplots(down, across, squeeze=False, width_ratios=sizes).ravel()
    for place, (panel, drawn) in enumerate(zip(grid.panels, axes, strict=False)):
        room = (width - 0.8 - _NAMES * across) * sizes[place % across] / sum(sizes)
        _draw_panel(drawn, grid, place, panel, room)
    for unused in axes[len(grid.panels) :]:
        unused.set_visible(False)
    colors = ScalarMappable(Normalize(*grid.limits), _colors(grid))
    shrink = min(1.0, 1.6 / (height * down))
    bar = figure.colorbar(colors, ax=list(axes), shrink=shrink, pad=0.01)
    # It is centred on the panels, under which there are names.
    bar.set_label(fill(grid.unit, max(8, characters(height * down - _NAMES / 2))))
    bar.outline.set_visible(False)  # type: ignore[operator]
    return figure


def _abreast(grid: Cells, width: float) -> int:
    """How many panels stand side by side: three at most, where their columns have room."""
    for across in range(min(3, len(grid.panels)), 1, -1):
        columns = sum(len(panel.columns) for panel in grid.panels[:across])
        texts = any(grid.table["text"] != "")
        if (width - 0.8 - _NAMES * across) / columns >= (_WIDE if texts else 0.1):
            return across
    return 1


def _draw_panel(axes: Axes, grid: Cells, place: int, panel: Panel, room: float) -> None:
    n_rows, n_columns = len(panel.rows), len(panel.columns)
    axes.set_facecolor("0.85")
    cell = room / n_columns
    fits = characters(cell * 0.96, _SMALL)
    shown = grid.table.loc[grid.table["panel"] == place]
    values = shown.pivot_table(index="row", columns="column", values="value", dropna=False)
    values = values.reindex(index=range(n_rows), columns=range(n_columns))
    low, high = grid.limits
    axes.pcolormesh(values.to_numpy(float), cmap=_colors(grid), vmin=low, vmax=high)
    if cell >= _WIDE:
        for row in shown.itertuples():
            one: Any = row
            axes.text(
                one.column + 0.5, one.row + 0.5, label(one.text, max(2, fits)), fontsize=_SMALL,
                ha="center", va="center", color=colors_of(grid, one.value)[1], clip_on=True,
            )  # fmt: skip
    axes.set_xticks([column + 0.5 for column in range(n_columns)])
    size = _SMALL if cell < 0.3 else FONT
    slanted = max(map(len, panel.columns)) > characters(cell * 0.96, size)
    names = [label(name, _LONGEST) for name in panel.columns]
    axes.set_xticklabels(
        names, fontsize=size, rotation=60 if slanted else 0,
        ha="right" if slanted else "center", rotation_mode="anchor" if slanted else None,
    )  # fmt: skip
    every = max(1, math.ceil(n_rows / _MOST_ROWS_LABELLED))
    ticks = [row for row in range(n_rows) if not row % every]
    axes.set_yticks([row + 0.5 for row in ticks], [label(panel.rows[row], 20) for row in ticks])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_ylim((0, n_rows) if grid.upward else (n_rows, 0))
    axes.set_xlabel(panel.column_axis)
    axes.set_ylabel(panel.row_axis)
    if panel.name:
        axes.set_title(label(panel.name, characters(room)), loc="left", pad=3)


@styled
def draw_lines(
    lines: dict[str, pd.Series], names: list[str], unit: str, title: str, width: float | str | None
) -> Figure:
    """Lines over layers, each named at its end in the legend."""
    figure = new_figure(FULL_WIDTH if width is None else inches(width), 2.4)
    axes = figure.subplots()
    for place, (name, values) in enumerate(lines.items()):
        style = look(place)
        axes.plot(
            range(len(values)), values.to_numpy(float), color=style.color, marker=style.marker,
            linestyle=style.linestyle, markersize=3, label=label(name),
        )  # fmt: skip
    every = max(1, math.ceil(len(names) / characters(figure.get_figwidth() - 1) * 4))
    ticks = range(0, len(names), every)
    axes.set_xticks(list(ticks), [label(names[tick], 10) for tick in ticks])
    axes.set_xlabel("layer")
    axes.set_ylabel(unit)
    axes.set_title(label(title, 90), loc="left")
    axes.legend(frameon=False)
    sns.despine(ax=axes)
    return figure
