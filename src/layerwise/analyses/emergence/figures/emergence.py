"""At what depth each capability emerges, by each method and protocol, on one axis.

It reads an emergence table only.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from layerwise.analyses.logit_lens.names import LENS_ORDER
from layerwise.ground.layer_names import COMPUTATION, DECODER, ENCODER
from layerwise.presentation.grid import legend_below, set_title
from layerwise.presentation.layer_axis import name_depths
from layerwise.presentation.lettering import label
from layerwise.presentation.naming import stacks
from layerwise.presentation.rows import rows
from layerwise.presentation.style import COLUMN_WIDTH, FULL_WIDTH, look, new_figure, styled
from layerwise.presentation.wording import (
    CAPABILITY_ORDER,
    PROTOCOL_ORDER,
    in_order,
    spread_of,
)

METHODS = (
    "ablation",
    *(f"{lens} lens" for lens in LENS_ORDER),
    "activation patching",
    "direct attribution",
)
DEPTHS = ("half-effect depth", "centre of mass")
SETTLED = "prediction depth"
_ROW, _FOR_TWO = 0.165, 4.8


@styled
def emergence_ranges(emergence: pd.DataFrame, width: float = FULL_WIDTH) -> Figure:
    """Depth summaries of the capabilities with their intervals.

    Args:
        emergence: the table ``emergence.parquet``.
        width: the widest the figure may be, inches.

    Returns:
        A row of panels per method and protocol, a column per measure (one below the other
        where the figure is narrow), then the prediction depths by lens; in each panel a point
        with its interval per capability. Grey upright ticks are the layers of the
        critical set. Depths within a stack have panels of their own, and are relative to it.
    """
    capabilities = in_order(emergence["capability"], CAPABILITY_ORDER)
    measures = in_order(rows(emergence, measure=DEPTHS)["measure"], DEPTHS) or list(DEPTHS[:1])
    plan = [(group, measure) for group in _groups(emergence) for measure in measures]
    settled = rows(emergence, measure=SETTLED)
    plan += [(group, SETTLED) for group in _groups(settled)]
    across = len(measures) if width >= _FOR_TWO else 1
    figure, grid = _grid(len(plan), across, _ROW * len(capabilities) + 0.1, width)
    for spare in grid[len(plan) :]:
        spare.remove()
    for axes, ((method, protocol, axis), measure) in zip(grid, plan, strict=False):
        mine = rows(emergence, method=method, protocol=protocol, axis=axis)
        _draw(axes, mine, capabilities, measure, axis)
        stack = "" if axis == COMPUTATION else f"{axis}, "
        named = f"{label(method)}, {label(protocol, 14)}: {measure}"
        axes.set_title(f"{stack}{named}", loc="left", pad=2)
    whole = COMPUTATION in set(emergence["axis"])
    first = "first layer" if whole else "first layer of the stack"
    for axes in grid[: len(plan)][-across:]:
        axes.tick_params(which="both", labelbottom=True)
        axes.set_xlabel(f"relative depth (0 = {first}, 1 = last)")
    items = f"n = {spread_of(emergence['n_items'], 'item')} a point"
    within = "" if whole else " within each stack"
    set_title(figure, f"Where capabilities emerge{within} (95 % intervals over items, {items})")
    if len(measures):
        legend_below(figure, _notes())
    return figure


def _groups(emergence: pd.DataFrame) -> list[tuple[str, str, str]]:
    """Methods, protocols and axes that there are, in their usual order."""
    there = set(zip(*(emergence[name] for name in ("method", "protocol", "axis")), strict=True))
    known = product(
        in_order(emergence["axis"], (COMPUTATION, ENCODER, DECODER)),
        in_order(emergence["method"], METHODS),
        in_order(emergence["protocol"], PROTOCOL_ORDER),
    )
    return [(m, protocol, axis) for axis, m, protocol in known if (m, protocol, axis) in there]


def _grid(n: int, across: int, height: float, width: float) -> tuple[Figure, list[Axes]]:
    down = -(-n // across)
    figure = new_figure(max(min(width, 3.45 * across), COLUMN_WIDTH), down * (height + 0.3) + 1.0)
    grid = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
    grid[0, 0].set_xlim(-0.03, 1.03)
    return figure, list(grid.ravel())


def _draw(axes: Axes, mine: pd.DataFrame, capabilities: list[str], measure: str, axis: str) -> None:
    for y, capability in enumerate(capabilities):
        _critical(axes, rows(mine, capability=capability, measure="critical set"), y)
        _point(axes, rows(mine, capability=capability, measure=measure), y)
    axes.set_yticks(range(len(capabilities)), [label(name, 14) for name in capabilities])
    axes.set_ylim(len(capabilities) - 0.4, -0.6)
    axes.grid(axis="x", color="0.88", lw=0.5)
    if axis == COMPUTATION:
        name_depths(axes)
    axes.spines[["top", "right"]].set_visible(False)


def _point(axes: Axes, row: pd.DataFrame, y: int) -> None:
    if row.empty:
        return
    seen = look(y)
    middle, low, high = (float(row[name].iloc[0]) for name in ("estimate", "low", "high"))
    axes.plot([low, high], [y, y], color=seen.color, lw=1.6, solid_capstyle="butt", gid="interval")
    axes.plot(
        [middle], [y], marker=seen.marker, color=seen.color, ms=4.5, mec="white", mew=0.4,
        gid="estimate",
    )  # fmt: skip


def _critical(axes: Axes, row: pd.DataFrame, y: int) -> None:
    layers = row["layers"].iloc[0] if len(row) else None
    if layers is None or not len(layers):
        return
    # The size is there in layers and as a share of them, which gives their number.
    n_layers = round(float(row["layer"].iloc[0] / row["estimate"].iloc[0]))
    first = stacks().n_encoder * int(row["axis"].iloc[0] == DECODER)
    places = (np.asarray(layers, dtype=float) - first) / max(1, n_layers - 1)
    axes.plot(
        places, np.full(len(places), y), ls="", marker="|", ms=6, mew=0.9, color="0.55", zorder=1,
        gid="critical",
    )  # fmt: skip


def _notes() -> list[Line2D]:
    return [
        Line2D([], [], color="0.35", lw=1.6, marker="o", ms=4.5, mec="white", label="estimate"),
        Line2D([], [], ls="", marker="|", ms=6, mew=0.9, c="0.55", label="layer of critical set"),
    ]
