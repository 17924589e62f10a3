"""Grids as figures, and the colours of their cells. Only tables are read."""

from __future__ import annotations

import math
import re
from textwrap import fill
from typing import TYPE_CHECKING, Any

import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize, to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from layerwise.presentation.lettering import characters, fitted, label, text_inches
from layerwise.presentation.style import FULL_WIDTH, inches, look, new_figure, styled

from .cells import SIGNED, Cells
from .placing import SMALL, WIDE, Place, abreast

if TYPE_CHECKING:
    import pandas as pd

# Bytes and characters without a glyph, such as <0xD8> and <U+200D>.
_NAMED = re.compile(r"<(?:0x|U\+)([0-9A-F]+)>")


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
    """The heat maps of a grid with one scale of colours; names that panels share stand once."""
    width = FULL_WIDTH if width is None else inches(width)
    panels, across = grid.panels, 3
    while (places := abreast(grid, width, across)) is None:
        across -= 1
    across = min(across, len(panels))
    same_rows = len({panel.rows for panel in panels}) == 1
    same_columns = len({panel.columns for panel in panels}) == 1
    lines = [places[start : start + across] for start in range(0, len(panels), across)]
    # Names of columns stand under the lowest panels, or under each.
    lowest = range(len(panels) - across if same_columns else 0, len(panels))
    named = [any(row * across + k in lowest for k in range(across)) for row in range(len(lines))]
    heights = [max(place.height for place in line) for line in lines]
    height = sum(heights) + sum(
        (max(place.below for place in line) if below else 0) + (0.2 if line[0].panel.name else 0.05)
        for line, below in zip(lines, named, strict=True)
    )
    figure = new_figure(width, height)
    axes = figure.subplots(
        len(lines), across, squeeze=False, height_ratios=heights,
        width_ratios=[max(place.width for place in places[k::across]) for k in range(across)],
    ).ravel()  # fmt: skip
    for number, (place, drawn) in enumerate(zip(places, axes, strict=False)):
        _draw_panel(drawn, grid, number, place)
        if same_rows and number % across:
            drawn.set(yticklabels=[], ylabel="")
        if number not in lowest:
            drawn.set(xticklabels=[], xlabel="")
    for unused in axes[len(panels) :]:
        unused.set_visible(False)
    colors = ScalarMappable(Normalize(*grid.limits), _colors(grid))
    # Ticks that do not depend on its height: the layout is made once.
    ticks = MaxNLocator(4, steps=[1, 2, 5, 10])
    shrink = min(1.0, 1.6 / height)
    bar = figure.colorbar(colors, ax=list(axes), shrink=shrink, pad=0.01, ticks=ticks)
    # Beside a low panel its name goes on beside the names of columns.
    bar.set_label(fill(grid.unit, max(8, characters(height - 0.1))),
                  loc="top" if height < 2 else "center")  # fmt: skip
    bar.outline.set_visible(False)  # type: ignore[operator]
    return figure


def in_cell(text: str, room: float) -> str:
    """A token that fits into a cell; of bytes and characters without a glyph only the number."""
    if text_inches(text, SMALL) > room:
        text = _NAMED.sub(r"x\1", text)
    return fitted(text, room, SMALL)


def _draw_panel(axes: Axes, grid: Cells, number: int, place: Place) -> None:
    panel, cell = place.panel, place.cell
    n_rows, n_columns = len(panel.rows), len(panel.columns)
    axes.set_facecolor("0.85")
    shown = grid.table.loc[grid.table["panel"] == number]
    values = shown.pivot_table(index="row", columns="column", values="value", dropna=False)
    values = values.reindex(index=range(n_rows), columns=range(n_columns))
    low, high = grid.limits
    axes.pcolormesh(values.to_numpy(float), cmap=_colors(grid), vmin=low, vmax=high)
    if cell >= WIDE:
        for row in shown.itertuples():
            one: Any = row
            axes.text(
                one.column + 0.5, one.row + 0.5, in_cell(one.text, cell * 0.96), fontsize=SMALL,
                ha="center", va="center", color=colors_of(grid, one.value)[1], clip_on=True,
            )  # fmt: skip
    columns, rows, slanted = place.columns, place.rows, place.slanted
    axes.set_xticks(
        [column + 0.5 for column in columns.at], columns.texts, fontsize=columns.size,
        rotation=60 if slanted else 0, ha="right" if slanted else "center",
        rotation_mode="anchor" if slanted else None,
    )  # fmt: skip
    axes.set_yticks([row + 0.5 for row in rows.at], rows.texts, fontsize=rows.size)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_ylim((0, n_rows) if grid.upward else (n_rows, 0))
    axes.set_xlabel(place.axis)
    axes.set_ylabel(panel.row_axis)
    if panel.name:
        axes.set_title(fitted(panel.name, place.width), loc="left", pad=3)


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
