"""Figures of ``interactions``, drawn from its saved tables alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from layerwise.presentation.charts.heat import DIVERGING, Mark, cells, draw_heat
from layerwise.presentation.charts.lines import Words, draw_series, series
from layerwise.presentation.charts.marks import level, points
from layerwise.presentation.charts.panels import Bar, Panels, rows_and_columns, task_title
from layerwise.presentation.layer_axis import layer_ticks, name_layers
from layerwise.presentation.rows import by_protocol, by_task, layers_in, numbers, rows
from layerwise.presentation.section import bounds
from layerwise.presentation.style import COLUMN_WIDTH, FULL_WIDTH, protocol_look, with_style
from layerwise.presentation.wording import HEAD_WORDS, protocol_words, spread

from .tables import NATS_ALONE, OVERLAPPING, REDUNDANT, player_name

_FILLED = {"color": "0.1", "mec": "white", "mew": 0.4}
_LOOKS: dict[str, tuple[str, str, dict[str, Any]]] = {
    REDUNDANT: ("redundant", "o", _FILLED),
    OVERLAPPING: ("overlapping", "s", _FILLED),
    NATS_ALONE: ("more in nats alone", "o", {"mfc": "none", "mec": "0.1", "mew": 0.5}),
}
Part = tuple[int, int]  # a layer and a head of it; -1 for the whole layer


@with_style
def interaction_triangles(
    pairs: pd.DataFrame, measure: str = "nats", width: float = FULL_WIDTH
) -> Figure:
    """Cost of each pair beyond the sum of its two, from ``interaction_pairs``."""
    shown = rows(pairs, measure=measure, signal=True)
    shown = shown.assign(one=_parts(shown, "first"), other=_parts(shown, "second"))
    listed = [
        ([task, f"{protocol_words(protocol)}, n = {spread(part['n_items'])}"], part)
        for task, of_task in by_task(shown)
        for protocol, part in by_protocol(of_task)
    ]
    parts = sorted({*shown["one"], *shown["other"]})
    _, across = rows_and_columns(len(listed), width, 1.9)
    height = min(width, max(COLUMN_WIDTH, across * 2.9)) / across - 0.7
    panels = Panels([title for title, _ in listed], width, (height,), least=1.9, most=2.9)
    largest = float(np.nanmax(np.abs(numbers(shown, "interaction")), initial=0.0)) or 1.0
    unit = "accuracy" if measure == "accuracy" else "nats"
    bar = Bar(DIVERGING, -largest, largest, f"cost of both − costs of each alone ({unit})")
    marks = [
        Mark(meaning, lambda row, name=name: row["verdict"] == name, marker, name, looks)
        for name, (meaning, marker, looks) in _LOOKS.items()
        if name in set(shown["verdict"])
    ]
    for axes, (_, part) in zip(panels.flat, listed, strict=True):
        drawn = cells(
            part, "interaction", ("other", parts[1:]), ("one", parts[:-1]), marks,
            lambda row: f"{player_name(*row['one'])} and {player_name(*row['other'])}: "
                        f"{bounds(row, 'interaction', 'low', 'high', 1, 2)} {unit}",
        )  # fmt: skip
        draw_heat(axes, drawn, bar, (panels.room, height))
        # layers as everywhere where they follow one another; otherwise each by its name
        layers = [layer for layer, _ in parts]
        if parts[0][1] < 0 and layers == list(range(layers[0], layers[-1] + 1)):
            name_layers(axes, "x", layers[:-1], panels.room, 0.2, cells=True)
            name_layers(axes, "y", layers[1:], height, cells=True)
            continue
        for set_ticks, named, inches, turned in (
            (axes.set_xticks, parts[:-1], panels.room, 90), (axes.set_yticks, parts[1:], height, 0)
        ):  # fmt: skip
            at = layer_ticks(range(len(named)), inches, 0.13)
            set_ticks([i + 0.5 for i in at], [player_name(*named[i]) for i in at], rotation=turned)
    noun = HEAD_WORDS.get(str(shown["site"].iloc[0]), "layer")
    title = f"Two {noun}s skipped: cost beyond their sum"
    return panels.finish(title, noun, [noun], bar, below=0.16 if noun == "layer" else 0.45)


def _parts(pairs: pd.DataFrame, which: str) -> list[Part]:
    heads = pairs[f"{which}_head"].astype(float).fillna(-1)
    return [(int(n), int(k)) for n, k in zip(pairs[f"{which}_layer"], heads, strict=True)]


@with_style
def shapley_values(
    shapley: pd.DataFrame, by: str, measure: str = "nats", width: float = FULL_WIDTH
) -> Figure:
    """Shares of the cost of skipping all layers, from rows of ``shapley``."""
    shown = rows(shapley, by=by, measure=measure, signal=True)
    tasks = by_task(shown)
    panels = Panels([task_title(part) for _, part in tasks], width)
    for axes, (_, part) in zip(panels.flat, tasks, strict=True):
        level(axes, 0, ls=(0, (4, 2)))
        for protocol, line in by_protocol(part):
            seen = protocol_look(protocol)
            points(axes, line["layer"], line["alone"], seen.marker, f"alone {protocol}",
                   "skipped alone", ms=2.6, mew=0.6, mfc="white", color=seen.color)  # fmt: skip
            value = series(line, f"value {protocol}", seen, "value", ends=("low", "high"),
                           unit=f" {measure}", band=False,
                           label=protocol_words(protocol))  # fmt: skip
            draw_series(axes, [value], Words(interval="95 % interval"))
    panels.over_layers(layers_in(shown))
    return panels.finish(f"Shapley values of layers, by {by}", "layer", [measure])
