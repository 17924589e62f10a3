"""The figures of the simulations of depths; they only read the saved tables."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap
from typing import Any

import numpy as np
import pandas as pd
from depth_candidates import CELLS, ESTIMATORS, INVERTED
from depth_cases import MARGINAL
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from layerwise.presentation.style import FULL_WIDTH, look

NOMINAL, LEAST, MOST, LEVEL = 95, 90, 98, 7


def depth_grid(intervals: pd.DataFrame, orders: pd.DataFrame) -> Figure:
    """A point per cell: how often intervals cover, and how often equal depths are told apart.

    Args:
        intervals: the table ``depth_intervals``.
        orders: the table ``depth_orders``.
    """
    figure = Figure(figsize=(FULL_WIDTH, 4.4), layout="constrained")
    panels = figure.subplots(2, 2, sharey="row")
    same = orders.loc[orders["apart"] == 0]
    flips = sorted({*intervals["flips"], *same["other_flips"]})
    for column, n_layers in enumerate(sorted(intervals["layers"].unique())):
        above, below = panels[:, column]
        mine = intervals.loc[intervals["layers"] == n_layers]
        _points(above, mine, mine["items"].astype(str), mine["covered"], mine["flips"], flips)
        above.axhspan(LEAST, MOST, color="0.93", lw=0, zorder=0)
        above.axhline(NOMINAL, color="0.5", lw=0.7)
        above.set_title(f"{n_layers} layers: {len(mine)} cells", loc="left")
        pairs = same.loc[same["layers"] == n_layers]
        sizes = pairs["items"].astype(str) + ", " + pairs["other_items"].astype(str)
        _points(below, pairs, sizes, pairs["rejected"], pairs["other_flips"], flips)
        below.axhspan(0, LEVEL, color="0.93", lw=0, zorder=0)
        below.axhline(100 - NOMINAL, color="0.5", lw=0.7)
        below.set_title(f"{n_layers} layers: {len(pairs)} pairs of cells", loc="left")
        above.set_xlabel("items")
        below.set_xlabel("items of the one, of the other")
    panels[0, 0].set_ylabel("intervals that cover\nthe true depth (%)")
    panels[1, 0].set_ylabel("equal depths that are\ntold apart (%, p < 0.05)")
    panels[1, 0].set_ylim(0, 12)
    handles = [
        Line2D([], [], ls="", marker="o", ms=4, c=look(i).color, label=f"{100 * value:.0f} % flips")
        for i, value in enumerate(flips)
    ]
    handles += [
        Line2D([], [], ls="", marker=marker, ms=4, mfc="white", mec="0.3", label=label)
        for marker, label in (("o", "any item flips"), ("^", "the same items flip"))
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    return figure


def _points(
    axes: Axes,
    table: pd.DataFrame,
    places: pd.Series,
    counts: pd.Series,
    flips: pd.Series,
    every: Sequence[float],
) -> None:
    names = list(dict.fromkeys(places))
    rng = np.random.default_rng(0)
    x = places.map(names.index).to_numpy() + rng.uniform(-0.33, 0.33, len(places))
    rates = 100 * counts.to_numpy() / table["sets"].to_numpy()
    for i, value in enumerate(every):
        for marker, noise in (("o", False), ("^", True)):
            chosen = (flips == value) & ((table["noise"] == MARGINAL) == noise)
            style: dict[str, Any] = {"marker": marker, "s": 7, "lw": 0, "alpha": 0.75}
            axes.scatter(x[chosen], rates[chosen], color=look(i).color, **style)
    axes.set_xticks(range(len(names)), names)
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.spines[["top", "right"]].set_visible(False)


def depth_candidates(table: pd.DataFrame) -> Figure:
    """By cell and estimator: the less often covered of both depths, and how often told apart.

    Args:
        table: the table ``depth_candidates``.
    """
    figure = Figure(figsize=(FULL_WIDTH, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    cells, names = list(CELLS), [*ESTIMATORS, INVERTED]
    covered = table[["covered", "other_covered"]].min(axis=1)
    for axes, counts, low, high, words in (
        (left, covered, LEAST, MOST, "covered, the one that is less (%)"),
        (right, table["different"], 0, LEVEL, "equal depths told apart (%)"),
    ):
        for i, name in enumerate(names):
            mine = table["estimator"] == name
            y = table.loc[mine, "cell"].map(cells.index).to_numpy() + 0.14 * (i - 2)
            rates = 100 * counts[mine] / table.loc[mine, "sets"]
            axes.plot(rates, y, ls="", marker=look(i).marker, ms=4.5, color=look(i).color,
                      label=name)  # fmt: skip
        axes.axvspan(low, high, color="0.93", lw=0, zorder=0)
        axes.set_xlim(-3, 103)
        axes.set_xlabel(words)
        axes.spines[["top", "right"]].set_visible(False)
    left.set_yticks(range(len(cells)), [_wrap(cell) for cell in cells])
    left.set_ylim(len(cells) - 0.5, -0.5)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def _wrap(text: str, width: int = 34) -> str:
    return "\n".join(wrap(text, width))
