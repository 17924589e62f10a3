"""The pictures of this analysis, each from its tables alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from layerwise.presentation.grid import (
    abreast,
    layer_ticks,
    legend_below,
    panel_grid,
    rows_and_columns,
    set_title,
)
from layerwise.presentation.head_maps import DIVERGING
from layerwise.presentation.layer_axis import name_layers
from layerwise.presentation.lettering import characters, label
from layerwise.presentation.naming import name_layer
from layerwise.presentation.panels import (
    by_protocol,
    finish_panels,
    protocol_handles,
    task_panels,
    tasks_in_order,
)
from layerwise.presentation.rows import layers_of, numbers, records, rows
from layerwise.presentation.style import COLUMN_WIDTH, FULL_WIDTH, protocol_look, styled
from layerwise.presentation.wording import HEAD_WORDS, PROTOCOL_ORDER, in_order, spread

from .tables import NATS_ALONE, OVERLAPPING, REDUNDANT

_LEAST, _DARK = 1.9, "0.1"
_FILLED = {"mfc": _DARK, "mec": "white", "mew": 0.4}
_LOOKS: dict[str, dict[str, Any]] = {
    REDUNDANT: {"marker": "o", **_FILLED},
    OVERLAPPING: {"marker": "s", **_FILLED},
    NATS_ALONE: {"marker": "o", "mfc": "none", "mec": _DARK, "mew": 0.5},
}
_MEANINGS = {
    REDUNDANT: "redundant",
    OVERLAPPING: "overlapping",
    NATS_ALONE: "more in nats alone",
}
Part = tuple[int, int | None]


@styled
def interaction_triangles(
    pairs: pd.DataFrame, measure: str = "nats", width: float = FULL_WIDTH
) -> Figure:
    """What each pair costs beyond the sum of its two, layers by layers.

    Args:
        pairs: rows of ``interaction_pairs.parquet`` of one site, some with signal.
        measure: ``nats``, ``margin`` or ``accuracy``.
        width: the widest the figure may be, inches.

    Returns:
        A triangle per task and protocol with signal. Red costs more together, blue less; all
        panels have one scale. Dots are redundant and squares overlap, by nats and margin; rings
        cost more in nats alone.
    """
    shown = rows(pairs, measure=measure, signal=True)
    cells = _cells(shown)
    parts = _parts(shown)
    down, across = rows_and_columns(len(cells), width, _LEAST)
    room = min(width, max(COLUMN_WIDTH, across * 2.9)) / across - 0.6
    figure, panels = panel_grid(len(cells), width, _LEAST, room + 0.55, most=2.9, extra=1.25)
    largest = float(np.nanmax(np.abs(shown["interaction"].to_numpy(dtype=float)), initial=0.0))
    largest = largest or 1.0
    for axes, (task, protocol) in zip(panels, cells, strict=True):
        mine = rows(shown, task=task, protocol=protocol)
        _draw(axes, mine, parts, largest)
        _name_axes(axes, parts, room)
        fits = characters(room + 0.2)
        axes.set_title(
            f"{label(task, fits)}\n{label(protocol, 14)}, n = {spread(mine['n_items'])}",
            loc="left", pad=3,
        )  # fmt: skip
    _finish(figure, panels, shown, largest, room * down, measure)
    return figure


def _cells(shown: pd.DataFrame) -> list[tuple[str, str]]:
    """The panels: tasks by capability, protocols in their order."""
    return [
        (task, protocol)
        for task in tasks_in_order(shown)
        for protocol in in_order(rows(shown, task=task)["protocol"], PROTOCOL_ORDER)
    ]


def _parts(shown: pd.DataFrame) -> list[Part]:
    """All layers or heads that are in a pair, in order."""
    return sorted({part for row in records(shown) for part in _pair(row)}, key=_order)


def _pair(row: dict) -> tuple[Part, Part]:
    return _part(row, "first"), _part(row, "second")


def _part(row: dict, which: str) -> Part:
    head = row[f"{which}_head"]
    return int(row[f"{which}_layer"]), None if pd.isna(head) else int(head)


def _order(part: Part) -> tuple[int, int]:
    return part[0], -1 if part[1] is None else part[1]


def _draw(axes: Axes, mine: pd.DataFrame, parts: list[Part], largest: float) -> None:
    """The cells of a triangle: the first of a pair along x, the second down y."""
    place, n = {part: i for i, part in enumerate(parts)}, len(parts)
    values, marks = np.full((n, n), np.nan), []
    for row in records(mine):
        one, other = (place[part] for part in _pair(row))
        values[other, one] = row["interaction"]
        marks.append((one + 0.5, other - 0.5, str(row["verdict"])))
    axes.pcolormesh(values[1:, :-1], cmap=DIVERGING, vmin=-largest, vmax=largest,
                    edgecolors="white", linewidth=0.3 if n <= 40 else 0.0)  # fmt: skip
    for verdict, look in _LOOKS.items():
        at = [(x, y) for x, y, told in marks if told == verdict]
        if at:
            x, y = zip(*at, strict=True)
            axes.plot(x, y, ls="", ms=_size(n), gid=verdict, **look)
    axes.set_xlim(0, n - 1)
    axes.set_ylim(n - 1, 0)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _size(n: int) -> float:
    """Marks that fit into cells, points."""
    return float(np.clip(80 / n, 1.6, 3.6))


def _name_axes(axes: Axes, parts: list[Part], room: float) -> None:
    """Layers as everywhere where they follow one another; otherwise each by its name."""
    layers = [layer for layer, _ in parts]
    if parts[0][1] is None and layers == list(range(layers[0], layers[-1] + 1)):
        name_layers(axes, "x", layers[:-1], room, 0.2, cells=True)
        name_layers(axes, "y", layers[1:], room, cells=True)
        return
    names = [_named(part) for part in parts]
    for set_ticks, shown, turned in (
        (axes.set_xticks, names[:-1], 90), (axes.set_yticks, names[1:], 0)
    ):  # fmt: skip
        at = layer_ticks(range(len(shown)), room, 0.13)
        set_ticks([i + 0.5 for i in at], [shown[i] for i in at], rotation=turned)


def _named(part: Part) -> str:
    layer, head = part
    return name_layer(layer) if head is None else f"{name_layer(layer)}.{head}"


def _finish(
    figure: Figure, panels: list[Axes], shown: pd.DataFrame, largest: float, tall: float,
    measure: str,
) -> None:  # fmt: skip
    """Names of the axes, the bar of colours, the meaning of marks, the title."""
    noun = HEAD_WORDS.get(str(shown["site"].iloc[0]), "layer")
    for axes in panels[:: abreast(panels)]:
        axes.set_ylabel(noun)
    for axes in panels[-abreast(panels) :]:
        axes.set_xlabel(noun)
    colors = ScalarMappable(Normalize(-largest, largest), DIVERGING)
    bar = figure.colorbar(
        colors, ax=panels, location="bottom", pad=0.03, fraction=0.1 / tall, aspect=25
    )
    unit = "accuracy" if measure == "accuracy" else "nats"
    bar.set_label(f"cost of both − costs of each alone ({unit})")
    bar.ax.spines[:].set_linewidth(0.4)
    if handles := _marks(set(shown["verdict"].dropna())):
        legend_below(figure, handles)
    set_title(figure, f"Two {noun}s skipped: cost beyond their sum")


def _marks(verdicts: set[str]) -> list[Line2D]:
    """What the marks of a figure mean."""
    return [
        Line2D([], [], ls="", ms=3.2, label=_MEANINGS[verdict], **look)
        for verdict, look in _LOOKS.items()
        if verdict in verdicts
    ]


@styled
def shapley_values(
    shapley: pd.DataFrame, by: str, measure: str = "nats", width: float = FULL_WIDTH
) -> Figure:
    """How the cost of skipping all layers is shared out among them.

    Args:
        shapley: rows of ``shapley.parquet`` of whole layers or sublayers, some with signal.
        by: ``pairs`` or ``permutations``.
        measure: ``nats``, ``margin`` or ``accuracy``.
        width: the widest the figure may be, inches.

    Returns:
        A line per protocol with signal, with bootstrap 95 % intervals over items; open markers
        are costs of single layers.
    """
    shown = rows(shapley, by=by, measure=measure, signal=True)
    figure, panels = task_panels(shown, width)
    for task, axes in panels.items():
        for protocol, line in by_protocol(rows(shown, task=task)):
            seen = protocol_look(protocol)
            layers = numbers(line, "layer")
            value, low, high = (numbers(line, name) for name in ("value", "low", "high"))
            axes.vlines(layers, low, high, color=seen.color, lw=0.9)
            axes.plot(layers, value, color=seen.color, ls=seen.linestyle, lw=0.9,
                      marker=seen.marker, ms=2.6, gid=f"value {protocol}")  # fmt: skip
            axes.plot(layers, numbers(line, "alone"), ls="", marker=seen.marker, ms=2.6, mew=0.6,
                      mfc="white", mec=seen.color, zorder=1, gid=f"alone {protocol}")  # fmt: skip
        axes.axhline(0, color="0.6", lw=0.6, ls=(0, (4, 2)), zorder=0)
    every, layers = list(panels.values()), layers_of(shown)
    finish_panels(figure, every, layers, "accuracy" if measure == "accuracy" else "nats")
    if np.ptp(layers) == 0:
        every[0].set_xlim(layers[0] - 1, layers[0] + 1)
    set_title(figure, f"Shapley values of layers, by {by} (lines: 95 % intervals)")
    note = Line2D([], [], ls="", marker="o", ms=2.6, mfc="white", mec="0.35", label="skipped alone")
    legend_below(figure, [*protocol_handles(shown), note])
    return figure
