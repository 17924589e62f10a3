"""Panels of a figure, with titles, axis labels, legend and colour bar around them.

The charts draw into the panels.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from layerwise.errors import UserError
from layerwise.presentation.layer_axis import name_layers
from layerwise.presentation.lettering import FONT, characters, label, text_inches
from layerwise.presentation.naming import stacks
from layerwise.presentation.rows import rows
from layerwise.presentation.style import BESIDE, COLUMN_WIDTH, PART, LayerFigure, new_figure
from layerwise.presentation.wording import (
    MINUS,
    PROTOCOL_ORDER,
    in_order,
    join_words,
    protocol_words,
    spread,
)
from layerwise.storage.base import INTO

# Inches of a line of text, of what stands around it, and between panels.
_LINE, _MARGIN, _GAP = 0.128, 0.08, 0.12
# Inches above a bar of colours, where an axis's name may stand lower than the layout knows.
_ABOVE_BAR = 0.1


@dataclass(frozen=True)
class Bar:
    """A colour bar from ``low`` to ``high``, with its unit."""

    colors: Colormap
    low: float
    high: float
    unit: str


class Panels:
    """Panels in a grid, each of one or more parts above each other, on shared axes."""

    # ``axes`` are the parts of each panel, from above; ``across`` is how many panels stand beside
    # each other, ``room`` the inches of a panel between its axes' ends, and ``fits`` how many
    # characters of a title fit above it.

    def __init__(
        self,
        titles: Sequence[Sequence[str]],
        width: float,
        heights: Sequence[float] = (0.95,),
        *,
        least: float = 1.6,
        most: float = 3.3,
        left: float = 0.6,
        share: str = "xy",
        above: float = 0.0,
        below: float = 0.0,
    ) -> None:
        """Make room for the titles in no more than ``width`` inches."""
        n, self._parts, self._share = len(titles), len(heights), share
        self._into: Axes | None = INTO.get()
        if self._into is not None:
            _refuse_several(titles, len(heights))
        self.down, self.across = rows_and_columns(n, width, least)
        wide = min(width, max(COLUMN_WIDTH, self.across * most))
        self.room = (wide - left) / self.across - _GAP
        self.fits = characters(self.room + _GAP - 0.02)
        self.figure = new_figure(wide, 1.0)
        self._ratios = [*heights] * self.down
        if self._into is None:
            grid = self.figure.subplots(
                self.down * self._parts, self.across, sharex="x" in share, squeeze=False,
                height_ratios=self._ratios,
            )  # fmt: skip
        else:
            grid = np.array([[self._into]])
            self.figure.set_layout_engine("none")
            BESIDE[self._into] = self.figure
            self.room = self._into.get_window_extent().width / self._into.figure.dpi
            self.fits = characters(self.room)
        places = [divmod(i, self.across) for i in range(self.down * self.across)]
        every = [tuple(grid[y * self._parts :][: self._parts, x]) for y, x in places]
        for spare in (axes for parts in every[n:] for axes in parts):
            spare.remove()
        self.axes: list[tuple[Axes, ...]] = every[:n]
        # a long line of a title is broken, a very long one loses its middle
        short = ([label(line, 2 * self.fits - 6) for line in title] for title in titles)
        lines = [[part for line in each for part in textwrap.wrap(line, self.fits)]
                 for each in short]  # fmt: skip
        for parts, title in zip(self.axes, lines, strict=True):
            parts[0].set_title("\n".join(title), loc="left", pad=3)
        deepest = [max(map(len, lines[i : i + self.across])) for i in range(0, n, self.across)]
        titled = sum(_LINE * n_lines + _MARGIN for n_lines in deepest)
        self._one, self._last = sum(heights), heights[-1]
        self._height = self.down * (self._one + above + below) + titled
        for i, parts in enumerate(self.axes):
            for part, axes in enumerate(parts):
                if "y" in self._share and i:
                    axes.sharey(self.axes[0][part])
                    axes.tick_params(which="both", labelleft=i % self.across == 0)
                lowest = axes is parts[-1] and (i in self._bottom_panels or "x" not in self._share)
                axes.tick_params(which="both", labelbottom=lowest)

    @property
    def _bottom_panels(self) -> range:
        return range(max(0, len(self.axes) - self.across), len(self.axes))

    @property
    def flat(self) -> list[Axes]:
        """The first part of each panel."""
        return [parts[0] for parts in self.axes]

    def over_layers(self, layers: Sequence[int], *, cells: bool = False) -> None:
        """Ticks, limits and the line between stacks, for an axis of layers under all panels."""
        if not cells:
            self.axes[0][0].set_xlim(layers[0] - 0.6, layers[-1] + 0.6)
        for axes in (axes for parts in self.axes for axes in parts):
            name_layers(axes, "x", layers, self.room, 0.24, cells=cells)

    def finish(
        self,
        title: str,
        x: str = "",
        y: Sequence[str] = (),
        bar: Bar | None = None,
        below: float = 0.16,
    ) -> Figure:
        """Name the axes, add title, legend and bar; the figure gets the height that it needs."""
        if self._into is not None:
            return self._finish_into(self._into, x, y, bar)
        figure = self.figure
        longest = characters(figure.get_figwidth() - 0.1, FONT + 1)
        lines = textwrap.wrap(title, longest)
        figure.entitle(lines)
        for parts in self.axes[:: self.across]:
            for axes, name in zip(parts, y, strict=False):
                axes.set_ylabel(name)
        for i in self._bottom_panels:
            self.axes[i][-1].set_xlabel(x)
        below += _LINE * bool(stacks().n_encoder)
        rows_named = 1 if "x" in self._share else self.down
        height = self._height + rows_named * below + (_LINE + 0.03) * (x.count("\n") + bool(x))
        height += _LINE * 1.15 * len(lines) + _MARGIN
        height += add_figure_legend(figure, [*figure.entries.values(), *figure.notes.values()])
        figure.set_figheight(height + (self.add_bar(bar) if bar else 0.0))
        if part := PART.get():
            self._keep_part(*part, x)
        return figure

    def _finish_into(self, axes: Axes, x: str, y: Sequence[str], bar: Bar | None) -> LayerFigure:
        """Name the axes of a user's own figure, with legend and bar beside them."""
        axes.set(xlabel=x, ylabel=y[0] if y else "")
        handles = [*self.figure.entries.values(), *self.figure.notes.values()]
        # Cells fill the axes, so that their legend stands above, beside the title.
        above: Any = {"loc": "lower right", "bbox_to_anchor": (1, 1), "borderaxespad": 0.2}
        if handles:
            axes.legend(handles=handles, frameon=False, **(above if bar else {}))
        if bar:
            shades = ScalarMappable(Normalize(bar.low, bar.high), bar.colors)
            axes.figure.colorbar(shades, ax=axes, label=bar.unit.replace(" (", "\n(", 1))
        return self.figure

    def _keep_part(self, tallest: float, number: int, x: str) -> None:
        """Leave one part of a figure that is too tall: some whole rows of its panels."""
        figure, each = self.figure, self._height / self.down
        around = figure.get_figheight() - self._height
        fit = max(1, int((tallest * figure.get_figwidth() - around) / each))
        figure.n_parts = math.ceil(self.down / fit)
        if figure.n_parts == 1:
            return
        fit = math.ceil(self.down / figure.n_parts)  # parts of one size
        first, down = number * fit, min(fit, self.down - number * fit)
        kept = self.axes[first * self.across : (first + down) * self.across]
        staying = {axes for parts in kept for axes in parts}
        for bar in [axes for axes in figure.axes if hasattr(axes, "_colorbar_info")]:
            info: Any = vars(bar)["_colorbar_info"]
            info["parents"] = [axes for axes in info["parents"] if axes in staying]
            # Both are shares of the panels' height, and stay so many inches.
            info |= {name: info[name] * self.down / down for name in ("fraction", "pad")}
            if not info["parents"]:
                bar.remove()
        for axes in [axes for parts in self.axes for axes in parts if axes not in staying]:
            axes.remove()
        heights = self._ratios[: self._parts * down]
        grid = figure.add_gridspec(self._parts * down, self.across, height_ratios=heights)
        for i, parts in enumerate(kept):
            row, column = divmod(i, self.across)
            for part, axes in enumerate(parts):
                axes.set_subplotspec(grid[row * self._parts + part, column])
            if i >= len(kept) - self.across:
                parts[-1].tick_params(which="both", labelbottom=True)
                parts[-1].set_xlabel(x)
        figure.tooltips = [one for one in figure.tooltips if one[0] in staying]
        figure.set_figheight(around + each * down)

    def add_panel_legend(self, axes: Axes) -> None:
        """Move the legend's entries so far into a legend of their own under a panel."""
        named, below = self.figure.entries, 0.45 + _LINE * bool(stacks().n_encoder)
        for name, handle in named.items():
            handle.set_label(label(name, max(8, self.fits - 5)))
        axes.legend(
            handles=list(named.values()), loc="upper left", frameon=False, handlelength=2.2,
            bbox_to_anchor=(-0.1, -below / self._last), borderaxespad=0, handletextpad=0.5,
            labelspacing=0.3,
        )  # fmt: skip
        named.clear()

    def add_bar(self, bar: Bar, over: Sequence[Axes] = ()) -> float:
        """Draw a colour bar under some panels, or all, and return the height that it takes."""
        panels = list(over) or [axes for parts in self.axes for axes in parts[-1:]]
        gap = " " if text_inches(bar.unit) < self.figure.get_figwidth() - 0.6 else "\n"
        high = self._one if over else self._height
        pad = max(0.02, _ABOVE_BAR / high)
        drawn = self.figure.colorbar(
            ScalarMappable(Normalize(bar.low, bar.high), bar.colors), ax=panels,
            location="bottom", pad=pad, aspect=25, fraction=0.1 / high,
        )  # fmt: skip
        ticks = MaxNLocator(3 if over else 4).tick_values(bar.low, bar.high)
        ticks = [tick for tick in ticks if bar.low <= tick <= bar.high]
        drawn.set_ticks(ticks, labels=[f"{tick:g}".replace("-", MINUS) for tick in ticks])
        drawn.set_label(bar.unit.replace(" (", f"{gap}(", 1))
        drawn.ax.spines[:].set_linewidth(0.4)
        return 0.5 + pad * high + _LINE * (gap == "\n")


def _refuse_several(titles: Sequence[Sequence[str]], n_parts: int) -> None:
    """Refuse to draw several panels into one pair of axes."""
    n_panels = len(titles) * n_parts
    if n_panels > 1:
        named = join_words([" ".join(title[:1]) for title in titles if title][:4])
        more = f" ({named}{', ...' * (len(titles) > 4)})" if named and len(titles) > 1 else ""
        raise UserError(
            f"This figure has {n_panels} panels{more}: expected a figure of one panel to draw into "
            "axes; take a result of fewer tasks or protocols, draw its table yourself, or call "
            "plot() for a figure by itself."
        )


def add_figure_legend(figure: Figure, handles: Sequence[Artist]) -> float:
    """One legend for the figure, under it, in as many columns as fit; its height."""
    if not handles:
        return 0.0
    widest = max(text_inches(str(handle.get_label())) for handle in handles) + 0.6
    fit = max(1, int((figure.get_figwidth() - 0.2) / widest))
    columns = min(len(handles), fit)
    figure.legend(
        handles=list(handles), loc="outside lower left", ncols=columns, frameon=False,
        handlelength=3.2, columnspacing=1.2,
    )  # fmt: skip
    return 0.15 * math.ceil(len(handles) / columns) + 0.12


def rows_and_columns(n: int, width: float, least: float) -> tuple[int, int]:
    """An even grid for ``n`` panels, none narrower than ``least`` inches if it can be."""
    across = min(n, max(1, int(width / least)))
    rows = math.ceil(n / across)
    return rows, math.ceil(n / rows)


def task_title(table: pd.DataFrame) -> list[str]:
    """The lines above a panel of one task: its name, how many items, what has no signal."""
    first = table.iloc[0]
    lines = [str(first["task"]), f"{first['capability']}, n = {spread(table['n_items'])}"]
    dull = rows(table, signal=False)["protocol"] if "signal" in table else ()
    return lines + [f"no signal: {protocol_words(one)}" for one in in_order(dull, PROTOCOL_ORDER)]
