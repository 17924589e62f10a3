"""Line charts over layers or steps, ranges with a row for each name, and scatter plots.

Points have intervals and are filled where they are significant. Charts of accuracy show the intact
model and the floor as horizontal lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from layerwise.presentation.lettering import label as shorten
from layerwise.presentation.naming import name_layer, stacks
from layerwise.presentation.rows import numbers, records, rows
from layerwise.presentation.section import basis, bounds, change_key
from layerwise.presentation.style import NOTE, LineStyle, figure_from_axes, look
from layerwise.presentation.wording import number

from .marks import DASHED, DOTTED, PALE, level, note


@dataclass(frozen=True)
class Words:
    """Meanings of marks in the legend, which lists only those that occur."""

    sure: str = ""
    unsure: str = ""
    interval: str = ""


NO_WORDS = Words()
_SIZE = 2.8  # of markers, in points


@dataclass(frozen=True)
class LineSeries:
    """A line or points with intervals."""

    name: str  # the ``gid`` of its artists
    look: LineStyle
    at: np.ndarray  # places along the axis
    middle: np.ndarray  # estimates
    low: np.ndarray | None = None  # None if there are no intervals
    high: np.ndarray | None = None
    sure: np.ndarray | None = None  # which markers are filled; None for all
    label: str = ""  # in the legend; not there if empty
    band: bool = True  # intervals are a band, not bars
    line: bool = True  # points are joined
    pale: bool = False  # without signal
    every: int = 1  # a marker in so many places
    over_layers: bool = False  # a line has a gap between encoder and decoder
    tooltips: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()  # whose items changed at each point


def series(
    table: pd.DataFrame,
    name: str,
    look: LineStyle,
    y: str,
    *,
    x: str = "layer",
    at: np.ndarray | None = None,
    ends: tuple[str, str] | None = None,
    scale: int = 1,
    unit: str = "",
    sure: str | None = None,
    label: str = "",
    **how: Any,
) -> LineSeries:
    """A series from a table with a row for each point."""
    middle = scale * numbers(table, y)
    low, high = (scale * numbers(table, end) for end in ends) if ends else (None, None)
    at = numbers(table, x) if at is None else at
    places = [name_layer(int(value)) if x == "layer" else str(value) for value in table[x]]
    digits = 0 if scale == 100 else 2
    texts = [
        (bounds(row, y, *ends, scale, digits) if ends else number(scale * row[y], digits))
        + f"{unit}{basis(row)}"
        for row in records(table)
    ]
    tooltips = tuple(
        f"{label and label + ', '}{x} {place}: {text}"
        for place, text in zip(places, texts, strict=True)
    )
    return LineSeries(
        name, look, at, middle, low, high,
        None if sure is None else table[sure].isin([True]).to_numpy(dtype=bool), label,
        tooltips=tooltips, changes=tuple(map(change_key, records(table))),
        over_layers=x == "layer", **how,
    )  # fmt: skip


def draw_series(
    axes: Axes, shown: Sequence[LineSeries], words: Words = NO_WORDS, *, upright: bool = False
) -> None:
    """Draw series over a horizontal axis, or beside an upright one."""
    for data in (data for data in shown if len(data.at)):
        _draw(axes, data, words, upright)
    axes.spines[["top", "right"]].set_visible(False)


def _draw(axes: Axes, data: LineSeries, words: Words, upright: bool) -> None:
    looks: dict[str, Any] = {"color": data.look.color, "alpha": PALE if data.pale else 1.0}
    marker: dict[str, Any] = {"ms": _SIZE, "mew": 0.7, "mec": data.look.color}
    place = (lambda at, value: (value, at)) if upright else (lambda at, value: (at, value))
    if data.low is not None and data.high is not None and not data.pale:
        if data.band:
            (places, low), (_, high) = _with_gap(data, data.low), _with_gap(data, data.high)
            looks_of_band: dict[str, Any] = {"color": data.look.color, "alpha": 0.2, "lw": 0}
            axes.fill_between(places, low, high, gid=f"band {data.name}", **looks_of_band)
            handle = Patch(facecolor="0.6", alpha=0.35, label=words.interval)
        else:
            draw = axes.hlines if upright else axes.vlines
            ends = data.at, data.low, data.high
            draw(*ends, color=data.look.color, lw=1.1, gid=f"interval {data.name}")
            handle = Line2D([], [], color=NOTE, lw=1.1, label=words.interval)
        if words.interval:
            note(axes, handle)
    if data.line:
        at, middle = _with_gap(data, data.middle)
        whole = {"marker": data.look.marker, "markevery": data.every} if data.sure is None else {}
        axes.plot(
            *place(at, middle), ls=data.look.linestyle, lw=0.9, gid=data.name, **looks, **marker,
            **whole,
        )  # fmt: skip
    sure = np.ones(len(data.at), dtype=bool) if data.sure is None else data.sure
    for chosen, face, kind in ((sure, data.look.color, "sure"), (~sure, "white", "unsure")):
        if data.sure is not None or (not data.line and kind == "sure"):
            axes.plot(
                *place(data.at[chosen], data.middle[chosen]), ls="", marker=data.look.marker,
                mfc=face, gid=data.name if data.sure is None else f"{kind} {data.name}", **looks,
                **marker,
            )  # fmt: skip
        if data.sure is not None and chosen.any() and (meaning := getattr(words, kind)):
            filled: dict[str, Any] = {"color": NOTE, "mfc": NOTE if kind == "sure" else "white"}
            note(axes, Line2D([], [], ls="", marker="o", ms=_SIZE, label=meaning, **filled))
    if data.label:
        face = data.look.color if sure.any() else "white"
        handle = Line2D(
            [], [], color=data.look.color, marker=data.look.marker, mfc=face, ms=_SIZE, lw=0.9,
            ls=data.look.linestyle if data.line else "-", label=shorten(data.label, 40),
        )  # fmt: skip
        figure_from_axes(axes).entries.setdefault(data.label, handle)
    for at, value, *tip in zip(data.at, data.middle, data.tooltips, data.changes, strict=False):
        figure_from_axes(axes).add_tooltip(axes, place(at, value) * 2, *tip)


def _with_gap(data: LineSeries, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values with a gap behind the encoder's last layer: it and the decoder are two streams."""
    first = stacks().n_encoder
    gap = np.searchsorted(data.at, first - 0.5) if first and data.over_layers else 0
    if not 0 < gap < len(data.at):
        return data.at, values
    return np.insert(data.at.astype(float), gap, np.nan), np.insert(values, gap, np.nan)


def draw_accuracy(
    axes: Axes, line: pd.DataFrame, name: str, look: LineStyle, words: Words, *, x: str, **how: Any
) -> None:
    """A line of accuracies in percent, with the intact model's and the floor as levels."""
    # Bands are intervals of the loss, drawn about the accuracy; without signal there is none.
    first = line.iloc[0]
    signal, intact = bool(first["signal"]), float(first["acc_intact"])
    ends = {"low": line["acc_diff_high"], "high": line["acc_diff_low"]}
    drawn: pd.DataFrame = line.assign(
        **{end: (intact - loss).clip(0, 1) for end, loss in ends.items()}
    )
    if x == "step":  # nothing is removed at first
        start = dict.fromkeys(("acc", "low", "high"), intact) | {"step": 0}
        drawn = pd.concat([pd.DataFrame([start]), pd.DataFrame(drawn[list(start)])])
    accuracies = series(
        drawn, f"accuracy {name}", look, "acc", x=x, ends=("low", "high"), scale=100, unit=" %",
        pale=not signal, **how,
    )  # fmt: skip
    draw_series(axes, [accuracies], words)
    alpha = 1.0 if signal else PALE
    looks: dict[str, Any] = {"color": look.color, "alpha": alpha}
    level(axes, 100 * intact, gid="intact", label="intact model", ls=DOTTED, lw=0.9, **looks)
    # stated chance in tables that have no floor
    floor = float(line["floor"].astype(float).iloc[0]) if "floor" in line else np.nan
    floor = float(first["chance"]) if np.isnan(floor) else floor
    level(axes, 100 * floor, gid="floor", label="floor", ls=DASHED, lw=0.8, **looks)


Group = tuple[dict[str, Any], LineStyle, str]
"""The rows of a series by values in their columns, its look, and its name in the legend."""


def ranges(
    table: pd.DataFrame,
    names: Sequence[Any],
    named: str,
    groups: Sequence[Group],
    columns: tuple[str, str, str] = ("estimate", "low", "high"),
    *,
    span: float = 0.8,
    **how: Any,
) -> list[LineSeries]:
    """Series of points with intervals, a row for each name and side by side within it."""
    middle, *ends = columns
    apart = span / len(groups)
    shown = []
    for i, (where, drawn_as, name) in enumerate(groups):
        of_group = rows(table, **where)
        at = np.array([names.index(label) for label in of_group[named]], dtype=float)
        at += apart * (i - (len(groups) - 1) / 2)
        shown.append(
            series(of_group, name or "estimate", drawn_as, middle, x=named, at=at,
                   ends=(ends[0], ends[1]), label=name, band=False, line=False, **how)
        )  # fmt: skip
    return shown


def draw_ranges(
    axes: Axes,
    names: Sequence[str],
    shown: Sequence[LineSeries],
    words: Words = NO_WORDS,
    *,
    longest: int = 14,
) -> None:
    """Draw points with intervals beside the names of their rows."""
    draw_series(axes, shown, words, upright=True)
    axes.set_yticks(range(len(names)), [shorten(name, longest) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="x", color="0.9", lw=0.5)


def draw_scatter(
    axes: Axes, x: np.ndarray, y: np.ndarray, tooltips: list[str], ends: tuple[float, float]
) -> None:
    """Points of two measures in one unit, and the line on which they are equal."""
    axes.plot(ends, ends, c="0.6", lw=0.6, ls="--", gid="equal")
    axes.plot(x, y, ls="", marker="o", ms=2.5, mew=0, alpha=0.7, c=look(0).color, gid="cells")
    for at, value, text in zip(x, y, tooltips, strict=True):
        figure_from_axes(axes).add_tooltip(axes, (at, value, at, value), text)
    axes.spines[["top", "right"]].set_visible(False)
