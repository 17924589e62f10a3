"""Role maps of several runs, one under the other, on a common axis of relative depth.

It reads a comparison's table of layers only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from layerwise.analyses.ablation.figures.role_map import HATCH, color_map, mark, share_bar
from layerwise.presentation.grid import legend_below, set_title
from layerwise.presentation.layer_axis import LINE
from layerwise.presentation.lettering import characters, label
from layerwise.presentation.naming import NAMES, Stacks
from layerwise.presentation.panels import tasks_in_order
from layerwise.presentation.rows import numbers, rows
from layerwise.presentation.style import FULL_WIDTH, new_figure, styled
from layerwise.presentation.wording import capitalised, doing, spread_of

_ROW, _HEAD, _NAME = 0.17, 0.34, 0.36


class Block(NamedTuple):
    """A run's block of rows: its name, its layers by stack, and its group, if it has one."""

    name: str
    stacks: Stacks
    group: str | None = None


@styled
def compared_roles(
    layers: pd.DataFrame, blocks: Sequence[Block], protocol: str, width: float = FULL_WIDTH
) -> Figure:
    """What each layer of each run is needed for, by task, under one protocol.

    Args:
        layers: the table ``comparison_layers.parquet``.
        blocks: the runs, from above.
        protocol: which protocol.
        width: of the figure, inches.

    Returns:
        A block per run, a row per task; a layer's cell takes its part of the depth, from 0
        (before the first layer) to 1 (after the last). All blocks have one scale of colour;
        dots mark losses that are significant within their run (Holm). Hatched: no signal.
    """
    shown = rows(layers, protocol=protocol)
    tasks = tasks_in_order(shown)
    height = _ROW * len(tasks) + _HEAD
    figure = new_figure(width, len(blocks) * height + 1.7)
    panels = list(figure.subplots(len(blocks), 1, sharex=True, squeeze=False).ravel())
    for axes, block in zip(panels, blocks, strict=True):
        _draw(axes, rows(shown, run=block.name), tasks, width)
        _name(axes, block, width)
    panels[-1].set_xlabel("relative depth (0 = start, 1 = end)")
    panels[0].set_xlim(0, 1)
    first = shown.iloc[0]
    subject = capitalised(doing(str(first["kind"]), str(first["site"]), "a layer"))
    set_title(figure, f"{subject}: accuracy lost under {label(protocol, 14)} (n = "
              f"{spread_of(shown['n_items'], 'item')} a row)")  # fmt: skip
    _explain(figure, panels, 0.1 / (height * len(blocks)))
    return figure


def _draw(axes: Axes, mine: pd.DataFrame, tasks: list[str], width: float) -> None:
    for y, task in enumerate(tasks):
        row = rows(mine, task=task).sort_values(by="layer")
        if row.empty or not all(row["signal"]):
            axes.add_patch(Rectangle((0, y), 1, 1, **HATCH))
            continue
        edges = np.append(numbers(row, "start"), numbers(row, "end")[-1])
        axes.pcolormesh(
            edges, [y, y + 1], numbers(row, "share_lost").clip(0, 1)[None], cmap=color_map(),
            vmin=0, vmax=1, edgecolors="white", linewidth=0.3, gid="layers",
        )  # fmt: skip
        sure = row.loc[row["significant"].to_numpy(dtype=bool) & (numbers(row, "acc_diff") > 0)]
        middles = (numbers(sure, "start") + numbers(sure, "end")) / 2
        axes.scatter(
            middles, np.full(len(sure), y + 0.5), s=9, c="white", edgecolors="black",
            linewidths=0.45, zorder=3, gid="significant loss",
        )  # fmt: skip
    fits = characters(_NAME * width - 0.2)
    axes.set_yticks(np.arange(len(tasks)) + 0.5, [label(task, min(fits, 26)) for task in tasks])
    axes.set_ylim(len(tasks), 0)
    axes.tick_params(axis="y", length=0)
    axes.spines[:].set_visible(False)


def _name(axes: Axes, block: Block, width: float) -> None:
    n_encoder, n_layers = block.stacks
    sizes = f"{n_layers} layers"
    if n_encoder:
        axes.axvline(n_encoder / n_layers, **LINE, zorder=4, gid="encoder | decoder")
        sizes = f"{n_encoder} {NAMES[0]} | {n_layers - n_encoder} {NAMES[1]} layers"
    room = characters(width * (1 - _NAME)) - len(sizes) - 2
    axes.set_title(f"{label(block.name, max(room, 8))}, {sizes}", loc="left", pad=3)


def _explain(figure: Figure, panels: list[Axes], fraction: float) -> None:
    dot = mark("significant loss (Holm, p < 0.05)", "o")
    legend_below(figure, [dot, Patch(label="no signal: not better than blind", **HATCH)])
    share_bar(figure, panels, fraction, pad=0.03)
