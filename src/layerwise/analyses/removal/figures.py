"""The pictures of this analysis, each from its tables alone."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from layerwise.presentation.grid import abreast, layer_ticks, legend_below, panel_grid, set_title
from layerwise.presentation.lettering import FONT, characters, label
from layerwise.presentation.naming import name_layer
from layerwise.presentation.panels import floor_of, tasks_in_order
from layerwise.presentation.rows import numbers, records, rows
from layerwise.presentation.style import COLUMN_WIDTH, FULL_WIDTH, look, new_figure, styled
from layerwise.presentation.wording import CAPABILITY_ORDER, PROTOCOL_ORDER, in_order

from .tables import BLOCKS, HELD_OUT, SELECTION, WAYS, removed_label

_LOOKS = {HELD_OUT: look(0), SELECTION: look(1)}
_WORDS = {HELD_OUT: "held-out items", SELECTION: "items selected by (optimistic)"}
_INTACT, _FLOOR = (0, (1, 1.2)), (0, (6, 2))
# What an upright label of a step takes along the axis, and the rest of a panel, in inches.
_LABEL, _MARGIN = 0.135, 0.75
NAMES = {
    "greedy": "greedy",
    "block": "best block",
    "effect": "single-layer effect",
    "deep": "from the deep end",
    "angular": "angular distance",
    "influence": "block influence",
}
# Inches of a panel in which its name fits on one line.
_WIDE = 1.5


@styled
def removal_curve(steps: pd.DataFrame, width: float = FULL_WIDTH) -> Figure:
    """Accuracy as layers are removed, on the items selected by and on those held out.

    Args:
        steps: the table ``removal_steps.parquet``.
        width: the widest the figure may be, inches.

    Returns:
        A panel per task, with what each step removed along its upper edge. Bands are the paired
        bootstrap intervals of the loss, drawn about the accuracy; dotted lines are the intact
        model's accuracy, dashed ones the floor: that without any layer, or stated chance where it
        was not measured. Without signal a line is pale and has no band.
    """
    tasks, last = tasks_in_order(steps), int(numbers(steps, "step").max())
    needed = min(width, max(2.2, _LABEL * last + _MARGIN))
    figure, panels = panel_grid(len(tasks), width, needed, 2.2, most=max(3.3, needed), extra=1.2)
    room = figure.get_figwidth() / abreast(panels) - _MARGIN
    panels[0].set_xlim(-0.5, last + 0.5)
    panels[0].set_ylim(-3, 103)
    panels[0].set_xticks(layer_ticks(range(last + 1), room, 0.24))
    for task, axes in zip(tasks, panels, strict=True):
        mine = rows(steps, task=task)
        for split in (SELECTION, HELD_OUT):
            line = rows(mine, split=split).sort_values(by="step")
            if len(line):
                _draw_split(axes, split, line)
        _name_steps(axes, mine, room)
        axes.set_title(_heading(mine, room), loc="left", pad=3)
    for axes in panels[:: abreast(panels)]:
        axes.set_ylabel("accuracy (%)")
    for axes in panels[-abreast(panels) :]:
        axes.set_xlabel("layers removed")
    first = steps.iloc[0]
    blocks = first["by"] in BLOCKS
    how = "without the best block of each size" if blocks else "as layers are removed one by one"
    set_title(figure, f"Accuracy under {label(str(first['protocol']))} {how}")
    legend_below(figure, _split_handles(steps))
    return figure


def _draw_split(axes: Axes, split: str, line: pd.DataFrame) -> None:
    seen, signal = _LOOKS[split], bool(line["signal"].iloc[0])
    alpha = 1.0 if signal else 0.35
    intact = 100 * float(line["acc_intact"].iloc[0])
    x = np.concatenate([[0], numbers(line, "step")])
    y = np.concatenate([[intact], 100 * numbers(line, "acc")])
    axes.plot(
        x, y, color=seen.color, marker=seen.marker, ls=seen.linestyle, ms=2.8, lw=0.9,
        alpha=alpha, gid=f"accuracy {split}",
    )  # fmt: skip
    axes.axhline(intact, lw=0.9, ls=_INTACT, color=seen.color, alpha=alpha, gid="intact")
    axes.axhline(floor_of(line), lw=0.8, ls=_FLOOR, color=seen.color, alpha=alpha, gid="floor")
    if signal:
        low, high = (
            np.concatenate([[intact], (intact - 100 * numbers(line, name)).clip(0, 100)])
            for name in ("acc_diff_high", "acc_diff_low")
        )
        axes.fill_between(x, low, high, color=seen.color, alpha=0.2, lw=0, gid=f"band {split}")


def _name_steps(axes: Axes, mine: pd.DataFrame, room: float) -> None:
    """What each step removed, upright along the upper edge."""
    listed = records(rows(mine, split=SELECTION).sort_values(by="step"))
    names = {
        int(row["step"]): removed_label(row["by"], row["layers"], name_layer) for row in listed
    }
    shown = layer_ticks(names, room, _LABEL)
    upper = axes.secondary_xaxis("top")
    upper.set_xticks(shown, [names[step] for step in shown], rotation=90, fontsize=FONT)
    upper.tick_params(length=0, pad=3.0)
    upper.set_gid("removed")
    blocks = listed[0]["by"] in BLOCKS
    upper.set_xlabel("block removed" if blocks else "layer removed", fontsize=FONT, labelpad=2)
    axes.spines[["top", "right"]].set_visible(False)


def _heading(mine: pd.DataFrame, inches: float) -> str:
    counts = [f"{split} n = {rows(mine, split=split)['n_items'].iloc[0]}" for split in _in(mine)]
    dull = [split for split in _in(mine) if not rows(mine, split=split)["signal"].iloc[0]]
    lines = [label(str(mine["task"].iloc[0]), characters(inches)), ", ".join(counts)]
    return "\n".join(lines + [f"no signal: {split}" for split in dull])


def _in(steps: pd.DataFrame) -> list[str]:
    return [split for split in (SELECTION, HELD_OUT) if len(rows(steps, split=split))]


def _split_handles(steps: pd.DataFrame) -> list[Line2D | Patch]:
    handles: list[Line2D | Patch] = []
    for split in _in(steps):
        seen = _LOOKS[split]
        handle = Line2D([], [], color=seen.color, marker=seen.marker, ls=seen.linestyle)
        handle.set(ms=3, lw=0.9, label=_WORDS[split])
        handles.append(handle)
    return [
        *handles,
        Line2D([], [], color="0.35", lw=0.9, ls=_INTACT, label="intact model"),
        Line2D([], [], color="0.35", lw=0.9, ls=_FLOOR, label="floor"),
        Patch(facecolor="0.6", alpha=0.35, label="95 % interval of the loss"),
    ]


@styled
def removal_orders(curves: pd.DataFrame, width: float = FULL_WIDTH) -> Figure:
    """The share of the above-floor accuracy that is left, on held-out items.

    Args:
        curves: the table ``removal_curves.parquet``.
        width: the widest the figure may be, inches.

    Returns:
        A row of panels per capability, a column per protocol. 100 % is the intact model, 0 %
        the floor. Bands are paired bootstrap intervals; filled markers significant losses.
    """
    capabilities = in_order(curves["capability"], CAPABILITY_ORDER)
    protocols = in_order(curves["protocol"], PROTOCOL_ORDER)
    across = min(width, max(COLUMN_WIDTH, 2.3 * len(protocols)))
    room = across / len(protocols) - 0.6
    between = ", " if room > _WIDE else "\n"
    height = (1.45 if room > _WIDE else 1.65) * len(capabilities) + 0.9
    figure = new_figure(across, height)
    grid = figure.subplots(
        len(capabilities), len(protocols), sharex=True, sharey=True, squeeze=False
    )
    for line, capability in zip(grid, capabilities, strict=True):
        for axes, protocol in zip(line, protocols, strict=True):
            mine = rows(curves, capability=capability, protocol=protocol)
            _draw_orders(axes, mine)
            count = [f"n = {mine['n_items'].iloc[0]}"] if len(mine) else []
            names = [label(capability, 12), label(protocol, 14), *count]
            axes.set_title(between.join(names), loc="left", pad=3)
        line[0].set_ylabel("accuracy above\nfloor left (%)")
    last = int(numbers(curves, "step").max())
    grid[0, 0].set_xticks(layer_ticks(range(last + 1), room, 0.24))
    grid[0, 0].set_xlim(-0.4, last + 0.4)
    grid[0, 0].set_ylim(-30, 125)
    for axes in grid[-1]:
        axes.set_xlabel("layers removed")
    set_title(figure, "Removal of layers in different orders, held-out items (bands: 95 %)")
    legend_below(figure, _order_handles(in_order(curves["by"], WAYS)))
    return figure


def _draw_orders(axes: Axes, mine: pd.DataFrame) -> None:
    axes.axhline(100, color="0.5", lw=0.7, ls=(0, (1, 1.2)))
    axes.axhline(0, color="0.35", lw=0.8, ls=(0, (6, 2)))
    axes.spines[["top", "right"]].set_visible(False)
    if mine.empty:
        axes.text(0.5, 0.5, "no signal", transform=axes.transAxes, ha="center", color="0.4")
    for by in in_order(mine["by"], WAYS):
        line, seen = rows(mine, by=by).sort_values(by="step"), look(WAYS.index(by))
        steps = np.concatenate([[0], numbers(line, "step")])
        left, low, high = (
            np.concatenate([[100], 100 - 100 * numbers(line, name)])
            for name in ("share_lost", "share_high", "share_low")
        )
        axes.plot(steps, left, color=seen.color, ls=seen.linestyle, lw=0.9, gid=f"left {by}")
        axes.fill_between(steps, low, high, color=seen.color, alpha=0.1, lw=0, gid=f"band {by}")
        losses = line["significant"].to_numpy(dtype=bool) & (numbers(line, "share_lost") > 0)
        sure = np.concatenate([[False], losses])
        for chosen, fill in ((sure, seen.color), (~sure, "white")):
            axes.plot(steps[chosen], left[chosen], ls="", marker=seen.marker, ms=2.8, mew=0.7,
                      color=seen.color, mfc=fill)  # fmt: skip


def _order_handles(names: list[str]) -> list[Line2D]:
    handles = []
    for by in names:
        seen = look(WAYS.index(by))
        line = Line2D([], [], color=seen.color, ls=seen.linestyle, marker=seen.marker)
        line.set(ms=3, mfc="white", lw=0.9, label=NAMES[by])
        handles.append(line)
    sure = Line2D([], [], ls="", marker="o", color="0.35", ms=3, label="filled: significant loss")
    floor = Line2D([], [], color="0.35", lw=0.8, ls=(0, (6, 2)), label="floor")
    return [*handles, sure, floor]
