"""The pictures of this analysis, each from its tables alone."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from layerwise.analyses.patching.figures import NOT_PATCHED, color_map, verb
from layerwise.presentation.grid import (
    abreast,
    layer_ticks,
    panel_grid,
    rows_and_columns,
    set_title,
)
from layerwise.presentation.head_maps import finish_heads, scale_of
from layerwise.presentation.layer_axis import name_layers
from layerwise.presentation.lettering import characters, label
from layerwise.presentation.panels import tasks_in_order
from layerwise.presentation.rows import numbers, records, rows
from layerwise.presentation.style import FULL_WIDTH, styled
from layerwise.presentation.wording import in_order, spread

_LEAST = 1.45


@styled
def path_senders(effects: pd.DataFrame, width: float = FULL_WIDTH) -> Figure:
    """What each sender carries to a receiver, a panel per task and receiver.

    Args:
        effects: the table ``path_effects.parquet`` of one direction.
        width: the widest the figure may be, inches.

    Returns:
        Layers by heads, in an encoder-decoder also by heads of cross-attention (``c0``, ``c1``),
        with a last column for the MLPs; embeddings are in the table only. Dots mark what
        is significant after Benjamini and Hochberg's correction. Grey: not heard, or not there.
    """
    shown = pd.DataFrame(effects.loc[effects["layer"] >= 0])
    named = [
        (task, receiver)
        for task in tasks_in_order(shown)
        for receiver in in_order(rows(shown, task=task)["receiver"], ("logits",))
    ]
    layers = sorted({int(layer) for layer in shown["layer"]})
    columns = _columns(shown)
    down, _ = rows_and_columns(len(named), width, _LEAST)
    height = float(np.clip(0.1 * len(layers), 0.9, 3.6 if down == 1 else 2.0))
    figure, panels = panel_grid(len(named), width, _LEAST, height + 0.5, most=2.4, extra=1.4)
    room, limit = figure.get_figwidth() / abreast(panels) - 0.45, scale_of(shown, "recovered")
    for axes, (task, receiver) in zip(panels, named, strict=True):
        mine = rows(shown, task=task, receiver=receiver)
        _draw(axes, mine, layers, columns, limit, (room, height))
        pairs = f", n = {spread(mine['n_items'])}"
        name = label(task, characters(room) - len(pairs))
        axes.set_title(
            f"{name}{pairs}\nto {label(receiver, characters(room) - 3)}", loc="left", pad=3
        )
    what = verb(str(shown["direction"].iloc[0]))
    finish_heads(
        figure, panels, ScalarMappable(Normalize(-limit, limit), color_map()),
        f"share of the logit difference {what}", 0.1 / (height * down),
    )  # fmt: skip
    set_title(figure, "Direct paths from heads and MLPs (dot: significant, FDR 5 %)")
    return figure


Column = tuple[str, int]
"""A site and a head; the MLPs' head is 0."""
_MARKS = {"z": "", "cross_z": "c"}


def _columns(shown: pd.DataFrame) -> list[Column]:
    """Heads of self-attention, then those of cross-attention, then the MLP."""
    spots = {(str(row["site"]), int(row["head"])) for row in records(shown.dropna(subset="head"))}
    return [*sorted(spots, key=lambda spot: (list(_MARKS).index(spot[0]), spot[1])), ("mlp_out", 0)]


def _draw(
    axes: Axes,
    mine: pd.DataFrame,
    layers: list[int],
    columns: list[Column],
    limit: float,
    room: tuple[float, float],
) -> None:
    mlp = len(columns) - 1
    numbered = mine["head"].astype("Int64").fillna(0)
    across = [columns.index((str(s), int(h))) for s, h in zip(mine["site"], numbered, strict=True)]
    values, sure = (np.full((len(layers), mlp + 1), np.nan) for _ in range(2))
    down = [layers.index(int(layer)) for layer in mine["layer"]]
    values[down, across] = numbers(mine, "recovered")
    sure[down, across] = mine["significant"].to_numpy(dtype=float)
    axes.pcolormesh(np.ma.masked_invalid(values), cmap=color_map(), vmin=-limit, vmax=limit)
    y, x = np.nonzero(sure == 1)
    axes.plot(x + 0.5, y + 0.5, ls="", marker=".", ms=2.5, c="black", gid="significant")
    ticks, next_start, column = {mlp: "MLP"}, mlp, room[0] / (mlp + 1)
    for site, mark in reversed(_MARKS.items()):
        heads = [head for of, head in columns if of == site]
        if not heads:
            continue
        axes.axvline(next_start, color="0.6", lw=0.5)
        for head in layer_ticks(heads, column * len(heads), 0.24 + 0.06 * len(mark)):
            place = columns.index((site, head))
            if (next_start - place) * column > 0.3:
                ticks[place] = f"{mark}{head}"
        next_start = columns.index((site, heads[0]))
    axes.set_xticks([place + 0.5 for place in ticks], list(ticks.values()))
    name_layers(axes, "y", layers, room[1], cells=True)
    axes.tick_params(length=0)
    axes.set_ylim(len(layers), 0)
    axes.set_facecolor(NOT_PATCHED)
    axes.spines[:].set_visible(False)
