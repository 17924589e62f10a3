"""Grids as figures: how large cells are, which names there is room for, and their colours."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import Any, NamedTuple

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from layerwise.presentation.charts.heat import ABSENT
from layerwise.presentation.charts.panels import Bar
from layerwise.presentation.lettering import FONT, characters, label, shorten_to_width, text_inches
from layerwise.presentation.style import FULL_WIDTH, inches, look, new_figure, with_style

# Bytes and characters without a glyph, such as <0xD8> and <U+200D>.
_NAMED = re.compile(r"<(?:0x|U\+)([0-9A-F]+)>")
SMALL = 5.5
# Characters of a row's and of a column's name; "cross-attention" has 15.
_ROW_NAME, _COLUMN_NAME = 20, 15
# Inches: the height of a row with text, the least width of a cell with text (some four letters) and
# of any other, the least height of a panel, the colour bar and what is left of it where it stands
# below, and a line of text.
_ROW, WIDE, _NARROW, _LEAST, _BAR, _MARGIN, _LINE = 0.145, 0.165, 0.035, 0.5, 0.65, 0.15, 0.13
# Cells with text so narrow have the colour bar below, which leaves them more room.
_SHORT_OF_ROOM = 0.3
# A figure says so where its cells are too narrow for their texts.
TOO_NARROW = "(a wider figure names tokens in its cells)"


@dataclass(frozen=True)
class Panel:
    """One heat map of a grid.

    Attributes:
        name: its title; empty if it is the only one.
        rows: names of its rows, from the first.
        columns: names of its columns.
        row_axis: what the rows are.
        column_axis: what the columns are.
    """

    name: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    row_axis: str = "layer"
    column_axis: str = "token"


class _Names(NamedTuple):
    """Names along an axis that there is room for, from the last one back."""

    at: list[int]
    texts: list[str]
    size: float

    @property
    def inches(self) -> float:
        """Length of the longest name."""
        return max(text_inches(text, self.size) for text in self.texts)


def _names(names: Sequence[str], room: float, longest: int, *, small: bool) -> _Names:
    """Names that stand one every so many inches."""
    size = SMALL if small else FONT
    every = max(1, math.ceil(1.1 * size / 72 / room))
    at = [place for place in range(len(names)) if not (len(names) - 1 - place) % every]
    return _Names(at, [label(names[place], longest) for place in at], size)


class _TextPlace:
    """A panel as it is drawn: the size of its cells and of all around them in inches."""

    def __init__(self, panel: Panel, cell: float, tall: float, *, texts: bool) -> None:
        self.panel, self.cell = panel, cell
        self.lettered = texts and cell >= WIDE
        self.width = cell * len(panel.columns)
        self.height = max(_LEAST, tall * len(panel.rows))
        self.rows = _names(panel.rows, tall, _ROW_NAME, small=tall < 0.11)
        self.columns = _names(panel.columns, math.inf, _COLUMN_NAME, small=cell < 0.3)
        # Names that are too long to stand side by side.
        self.slanted = self.columns.inches > cell * 0.96
        if self.slanted:
            self.columns = _names(panel.columns, cell, _COLUMN_NAME, small=cell < 0.3)
        axis = panel.column_axis
        if texts and not self.lettered:
            axis = f"{axis} {TOO_NARROW}".strip()
        self.axis = fill(axis, max(12, characters(self.width)))
        names = 0.87 * self.columns.inches + 0.1 if self.slanted else _LINE
        self.below = names + _LINE * len(self.axis.splitlines()) + 0.1


def _abreast(
    panels: Sequence[Panel], width: float, across: int, bar: float, *, texts: bool
) -> list[_TextPlace] | None:
    """The panels, so many side by side; None if there is no room for their columns."""
    same_rows = len({panel.rows for panel in panels}) == 1
    sizes = [max(len(panel.columns) for panel in panels[k::across]) for k in range(across)]
    names = (_names(panel.rows, _ROW, _ROW_NAME, small=False).inches for panel in panels)
    beside = (2 * _LINE + max(names)) * (1 if same_rows else across)
    cell = (width - bar - beside) / sum(sizes)
    if across > 1 and cell < (WIDE if texts else _NARROW):
        return None
    cell = max(cell, 0.001)
    tall = _ROW if texts else max(_NARROW, min(_ROW, cell))
    return [
        _TextPlace(panel, cell * sizes[number % across] / len(panel.columns), tall, texts=texts)
        for number, panel in enumerate(panels)
    ]


def cell_colors(bar: Bar, value: float) -> tuple[str, str]:
    """Background and text colour of a cell, in hexadecimal."""
    if math.isnan(value):
        return "#d9d9d9", "#1a1a1a"
    red, green, blue, _ = color = bar.colors((value - bar.low) / (bar.high - bar.low))
    dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.55
    return to_hex(color), "#ffffff" if dark else "#1a1a1a"


@with_style
def draw_grid(
    table: pd.DataFrame,
    panels: Sequence[Panel],
    bar: Bar,
    *,
    upward: bool,
    width: float | str | None,
) -> Figure:
    """The heat maps of a grid with one scale of colours; names that panels share stand once."""
    width = FULL_WIDTH if width is None else inches(width)
    across, texts = min(3, len(panels)), any(table["text"] != "")
    while (places := _abreast(panels, width, across, _BAR, texts=texts)) is None:
        across -= 1
    # Where cells are too narrow for their texts, the colour bar makes room.
    below = texts and any(place.cell < _SHORT_OF_ROOM for place in places)
    if below:
        places = _abreast(panels, width, across, _MARGIN, texts=texts) or places
    same_rows, same_columns = (
        len({getattr(panel, names) for panel in panels}) == 1 for names in ("rows", "columns")
    )
    lines = [places[start : start + across] for start in range(0, len(panels), across)]
    # Names of columns stand under the lowest panels, or under each.
    lowest = range(len(panels) - across if same_columns else 0, len(panels))
    named = [(row + 1) * across > lowest.start for row in range(len(lines))]
    heights = [max(place.height for place in line) for line in lines]
    height = sum(heights) + sum(
        (max(place.below for place in line) if below else 0) + (0.2 if line[0].panel.name else 0.05)
        for line, below in zip(lines, named, strict=True)
    )
    figure = new_figure(width, height + below * 4 * _LINE)
    axes = figure.subplots(
        len(lines), across, squeeze=False, height_ratios=heights,
        width_ratios=[max(place.width for place in places[k::across]) for k in range(across)],
    ).ravel()  # fmt: skip
    for number, (place, drawn) in enumerate(zip(places, axes, strict=False)):
        _draw_panel(drawn, table.loc[table["panel"] == number], place, bar)
        drawn.set_ylim((0, len(place.panel.rows)) if upward else (len(place.panel.rows), 0))
        if same_rows and number % across:
            drawn.set(yticklabels=[], ylabel="")
        if number not in lowest:
            drawn.set(xticklabels=[], xlabel="")
    for unused in axes[len(panels) :]:
        unused.set_visible(False)
    # Ticks that do not depend on its height: the layout is made once.
    along = width if below else height
    drawn_bar = figure.colorbar(
        ScalarMappable(Normalize(bar.low, bar.high), bar.colors), ax=list(axes), pad=0.01,
        location="bottom" if below else "right", aspect=30 if below else 20,
        shrink=min(1.0, 1.6 / along), ticks=MaxNLocator(4, steps=[1, 2, 5, 10]),
    )  # fmt: skip
    # Beside a low panel its name goes on beside the names of columns.
    unit = fill(bar.unit, max(8, characters(along - 0.1)))
    drawn_bar.set_label(unit, loc="top" if height < 2 and not below else "center")
    drawn_bar.outline.set_visible(False)  # type: ignore[operator]
    return figure


def in_cell(text: str, room: float) -> str:
    """A token that fits into a cell; of bytes and characters without a glyph only the number."""
    if text_inches(text, SMALL) > room:
        text = _NAMED.sub(r"x\1", text)
    while len(text) > 1 and text_inches(text, SMALL) > room:
        text = text[:-1]  # of a few letters, the first say most
    return text


def _draw_panel(axes: Axes, shown: pd.DataFrame, place: _TextPlace, bar: Bar) -> None:
    panel, cell = place.panel, place.cell
    axes.set_facecolor(ABSENT)
    values = shown.pivot_table(index="row", columns="column", values="value", dropna=False)
    values = values.reindex(index=range(len(panel.rows)), columns=range(len(panel.columns)))
    axes.pcolormesh(values.to_numpy(float), cmap=bar.colors, vmin=bar.low, vmax=bar.high)
    if place.lettered:
        for row in shown.itertuples():
            one: Any = row
            axes.text(
                one.column + 0.5, one.row + 0.5, in_cell(one.text, cell * 0.96), fontsize=SMALL,
                ha="center", va="center", color=cell_colors(bar, one.value)[1], clip_on=True,
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
    axes.set_xlabel(place.axis)
    axes.set_ylabel(panel.row_axis)
    if panel.name:
        axes.set_title(shorten_to_width(panel.name, place.width), loc="left", pad=3)


@with_style
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
    axes.set(xlabel="layer", ylabel=unit)
    axes.set_title(label(title, 90), loc="left")
    axes.legend(frameon=False)
    sns.despine(ax=axes)
    return figure
