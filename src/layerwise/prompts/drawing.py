"""Grids as figures: how large cells are, which names there is room for, and their colours."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from textwrap import fill
from typing import TYPE_CHECKING, Any

import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize, to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from layerwise.presentation.lettering import FONT, characters, fitted, label, text_inches
from layerwise.presentation.style import FULL_WIDTH, inches, look, new_figure, styled

from .cells import SIGNED, Cells, Panel

if TYPE_CHECKING:
    import pandas as pd

# Bytes and characters without a glyph, such as <0xD8> and <U+200D>.
_NAMED = re.compile(r"<(?:0x|U\+)([0-9A-F]+)>")
SMALL = 5.5
# Characters of a column's name; as many as "cross-attention" has.
_LONGEST = 15
# Inches: the height of a row with text, the least width of a cell with text and of any other, the
# least height of a panel, the colour bar, and a line of text.
_ROW, WIDE, _NARROW, _LEAST, _BAR, _LINE = 0.145, 0.24, 0.035, 0.5, 0.65, 0.13


@dataclass(frozen=True)
class _Names:
    """Names along an axis: those that there is room for, from the last one back."""

    at: list[int]
    texts: list[str]
    size: float

    @classmethod
    def of(cls, names: Sequence[str], room: float, *, longest: int, small: bool) -> _Names:
        """Names that stand one every so many inches."""
        size = SMALL if small else FONT
        every = max(1, math.ceil(1.1 * size / 72 / room))
        at = [place for place in range(len(names)) if not (len(names) - 1 - place) % every]
        return cls(at, [label(names[place], longest) for place in at], size)

    def inches(self) -> float:
        """How long the longest is."""
        return max(text_inches(text, self.size) for text in self.texts)


@dataclass(frozen=True)
class Place:
    """A panel as it is drawn: the size of its cells in inches, and its names."""

    panel: Panel
    cell: float
    tall: float

    @cached_property
    def rows(self) -> _Names:
        """Names of rows."""
        return _Names.of(self.panel.rows, self.tall, longest=20, small=self.tall < 0.11)

    @cached_property
    def columns(self) -> _Names:
        """Names of columns."""
        names, small = self.panel.columns, self.cell < 0.3
        room = self.cell if self.slanted else math.inf
        return _Names.of(names, room, longest=_LONGEST, small=small)

    @cached_property
    def slanted(self) -> bool:
        """Whether names of columns are too long to stand side by side."""
        names = _Names.of(self.panel.columns, math.inf, longest=_LONGEST, small=self.cell < 0.3)
        return names.inches() > self.cell * 0.96

    @cached_property
    def axis(self) -> str:
        """What the columns are, in lines."""
        return fill(self.panel.column_axis, max(12, characters(self.width)))

    @property
    def width(self) -> float:
        """Without names."""
        return self.cell * len(self.panel.columns)

    @property
    def height(self) -> float:
        """Without names."""
        return max(_LEAST, self.tall * len(self.panel.rows))

    @property
    def below(self) -> float:
        """The height of names of columns and of their axis."""
        names = 0.87 * self.columns.inches() + 0.1 if self.slanted else _LINE
        return names + _LINE * len(self.axis.splitlines()) + 0.1


def abreast(grid: Cells, width: float, across: int) -> list[Place] | None:
    """The panels, so many side by side; None if there is no room for their columns."""
    panels, texts = grid.panels, any(grid.table["text"] != "")
    across = min(across, len(panels))
    same_rows = len({panel.rows for panel in panels}) == 1
    sizes = [max(len(panel.columns) for panel in panels[k::across]) for k in range(across)]
    beside = 2 * _LINE + max(Place(panel, 1.0, _ROW).rows.inches() for panel in panels)
    cell = (width - _BAR - beside * (1 if same_rows else across)) / sum(sizes)
    if across > 1 and cell < (WIDE if texts else _NARROW):
        return None
    tall = _ROW if texts else max(_NARROW, min(_ROW, cell))
    return [
        Place(panel, max(cell, 0.001) * sizes[number % across] / len(panel.columns), tall)
        for number, panel in enumerate(panels)
    ]


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
