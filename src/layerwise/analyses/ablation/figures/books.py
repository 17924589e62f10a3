"""What each layer costs with a passage and without it, on the same questions, and the difference.

It reads the table of books only.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from layerwise.presentation.grid import legend_below, rows_and_columns, set_title
from layerwise.presentation.layer_axis import name_layers
from layerwise.presentation.lettering import characters, label
from layerwise.presentation.panels import by_protocol
from layerwise.presentation.rows import layers_of, numbers, rows
from layerwise.presentation.style import COLUMN_WIDTH, FULL_WIDTH, look, new_figure, styled
from layerwise.presentation.wording import LAYER_MAIN, capitalised, doing

_LEAST, _MOST = -50.0, 125.0
_CLOSED, _OPEN = look(0), look(1)


@styled
def book_losses(
    books: pd.DataFrame,
    kind: str = LAYER_MAIN[0],
    site: str = LAYER_MAIN[1],
    width: float = FULL_WIDTH,
) -> Figure:
    """The share lost at each layer without a passage and with it, and their paired difference.

    Args:
        books: the table ``books.parquet``, of one pair of tasks and of single layers.
        kind: the kind of intervention shown.
        site: its site.
        width: the widest the figure may be, inches.

    Returns:
        A column of two panels per protocol. Above: the share of the above-floor accuracy that is
        lost, closed and open book. Below: closed minus open, bootstrap 95 % intervals; triangles
        mark layers that lose more items without the passage (up) or with it (down), of those right
        both ways.
    """
    shown = rows(books, kind=kind, site=site)
    lines = by_protocol(shown)
    n_rows, across = rows_and_columns(len(lines), width, 1.6)
    figure = new_figure(min(width, max(COLUMN_WIDTH, across * 3.3)), n_rows * 2.3 + 1.1)
    grid = figure.subplots(2 * n_rows, across, sharex=True, sharey="row", squeeze=False)
    layers, inches = layers_of(shown), figure.get_figwidth() / across
    for i in range(n_rows):
        some = lines[i * across : (i + 1) * across]
        for j, (protocol, line) in enumerate(some):
            above, below = grid[2 * i, j], grid[2 * i + 1, j]
            _draw_losses(above, line)
            _draw_difference(below, line)
            first = line.iloc[0]
            words = (
                f"{label(protocol, 14)}, n = {first['n_pairs']}\n({first['n_common']} right both)"
            )
            above.set_title(words, loc="left", pad=3)
            below.tick_params(labelbottom=True)
            name_layers(below, "x", layers, inches - 0.6, 0.24)
            below.set_xlabel("layer")
        for spare in grid[2 * i : 2 * i + 2, len(some) :].ravel():
            spare.remove()
        grid[2 * i, 0].set_ylim(_LEAST, _MOST)
        grid[2 * i + 1, 0].set_ylim(_bottom(shown), _MOST)
        grid[2 * i, 0].set_ylabel("above-floor\naccuracy lost (%)")
        grid[2 * i + 1, 0].set_ylabel("closed minus\nopen (points)")
    grid[0, 0].set_xlim(layers[0] - 0.6, layers[-1] + 0.6)
    action = capitalised(doing(kind, site, "one layer"))
    set_title(figure, f"{action}: what the passage protects")
    legend_below(figure, _legend(shown, characters(figure.get_figwidth() - 1.4)))
    return figure


def _bottom(shown: pd.DataFrame) -> float:
    """The foot of the differences: low enough for what is lost with the passage alone."""
    least = 100 * np.nanmin(numbers(shown, "share_difference"))
    return _LEAST if least > _LEAST + 10 else -_MOST


def _draw_losses(axes: Axes, line: pd.DataFrame) -> None:
    axes.axhline(0, color="0.35", lw=0.6)
    for name, seen in (("closed", _CLOSED), ("open", _OPEN)):
        axes.plot(
            numbers(line, "layer"), 100 * numbers(line, f"share_{name}"), color=seen.color,
            ls=seen.linestyle, lw=0.9, ms=2.8, marker=seen.marker, mfc="white", mew=0.7,
            gid=f"share {name}",
        )  # fmt: skip
    axes.spines[["top", "right"]].set_visible(False)


def _draw_difference(axes: Axes, line: pd.DataFrame) -> None:
    x, middle, low, high = (
        numbers(line, name) for name in ("layer", "share_difference", "share_low", "share_high")
    )
    axes.axhline(0, color="0.35", lw=0.6)
    low, high = (np.clip(100 * bound, -_MOST, _MOST) for bound in (low, high))
    axes.vlines(x, low, high, color="0.55", lw=1.1, gid="interval")
    axes.plot(x, 100 * middle, ls="", marker="o", ms=2.2, color="0.2", gid="difference")
    more = line["loses_more"].to_numpy(dtype=object)
    for name, seen, marker in (("closed", _CLOSED, "^"), ("open", _OPEN, "v")):
        sure = more == name
        axes.plot(
            x[sure], 100 * middle[sure], ls="", marker=marker, ms=5, color=seen.color, mec="black",
            mew=0.5, gid=f"more {name}",
        )  # fmt: skip
    axes.spines[["top", "right"]].set_visible(False)


def _legend(shown: pd.DataFrame, longest: int) -> list[Line2D]:
    handles = []
    for name, words, seen in (("closed", "without", _CLOSED), ("open", "with", _OPEN)):
        handle = Line2D([], [], color=seen.color, ls=seen.linestyle, marker=seen.marker)
        task = label(str(shown[name].iloc[0]), min(longest, 24))
        handle.set(ms=3, lw=0.9, mfc="white", label=f"{words} the passage: {task}")
        handles.append(handle)
    for marker, words, seen in (("^", "without", _CLOSED), ("v", "with", _OPEN)):
        mark = Line2D([], [], ls="", marker=marker, color=seen.color, mec="black")
        mark.set(ms=5, mew=0.5, label=f"loses more {words} it (Holm)")
        handles.append(mark)
    interval = Line2D([], [], color="0.55", marker="o", mfc="0.2", mec="0.2")
    interval.set(ms=2.2, lw=1.1, label="difference, 95 % interval")
    return [*handles, interval]
