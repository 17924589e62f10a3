"""The pictures of this analysis, each from its tables alone."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from layerwise.analyses.logit_lens.tables import LENS_ORDER
from layerwise.ground.layer_names import COMPUTATION, DECODER, ENCODER
from layerwise.presentation.grid import abreast, legend_below, panel_grid, set_title
from layerwise.presentation.layer_axis import name_depths
from layerwise.presentation.lettering import label
from layerwise.presentation.naming import stacks
from layerwise.presentation.panels import protocol_handles
from layerwise.presentation.rows import numbers, records, rows
from layerwise.presentation.style import (
    COLUMN_WIDTH,
    FULL_WIDTH,
    look,
    new_figure,
    protocol_look,
    styled,
)
from layerwise.presentation.wording import (
    CAPABILITY_ORDER,
    PROTOCOL_ORDER,
    in_order,
    p_value,
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
_MEASURES = {
    "half-effect depth": "difference of half-effect depth\n(relative; second minus first)",
    "rank correlation": "rank correlation over layers",
}
_AGREEMENT_ROW, _STEP = 0.24, 0.24
_LEAST, _MOST = -50, 150


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


@styled
def agreement_ranges(agreement: pd.DataFrame, width: float = FULL_WIDTH) -> Figure:
    """Differences of depth and rank correlations of every two methods, with intervals.

    Args:
        agreement: the table ``method_agreement.parquet``.
        width: the widest the figure may be, inches.

    Returns:
        A row of panels per pair of methods; left the difference of half-effect depth, right
        the correlation (below, where the figure is narrow); a row per capability, a point per
        protocol. Filled points differ from 0 after Holm's correction, depths by no less than is
        of interest.
    """
    capabilities = in_order(agreement["capability"], CAPABILITY_ORDER)
    protocols = in_order(agreement["protocol"], PROTOCOL_ORDER)
    pairs = in_order(zip(agreement["first"], agreement["second"], strict=True), ())
    across = 2 if width >= _FOR_TWO else 1
    plan = [(pair, measure) for pair in pairs for measure in _MEASURES]
    if across == 1:
        plan.sort(key=lambda each: list(_MEASURES).index(each[1]))
    down = len(plan) // across
    figure = new_figure(
        max(min(width, 6.4), COLUMN_WIDTH), down * (_AGREEMENT_ROW * len(capabilities) + 0.42) + 1.1
    )
    grid = figure.subplots(down, across, sharey=True, squeeze=False).ravel()
    for axes, ((first, second), measure) in zip(grid, plan, strict=True):
        mine = rows(agreement, first=first, second=second, measure=measure)
        _draw_agreement(axes, mine, capabilities, protocols)
        axes.set_xlim(*_limits(rows(agreement, measure=measure)))
        axes.set_title(f"{label(first)}, then {label(second)}", loc="left", pad=2)
    for measure, words in _MEASURES.items():
        last = max(i for i, each in enumerate(plan) if each[1] == measure)
        grid[last].set_xlabel(words)
    set_title(figure, "Do methods agree? (95 % intervals over items)")
    legend_below(figure, [*protocol_handles(agreement), _agreement_note()])
    return figure


def _draw_agreement(
    axes: Axes, mine: pd.DataFrame, capabilities: list[str], protocols: list[str]
) -> None:
    axes.axvline(0, color="0.6", lw=0.6)
    for row in records(mine):
        seen = protocol_look(row["protocol"])
        place = protocols.index(row["protocol"]) - (len(protocols) - 1) / 2
        y = capabilities.index(row["capability"]) + _STEP * place
        axes.plot([row["low"], row["high"]], [y, y], color=seen.color, lw=1.2, gid="interval")
        by_rank = row["measure"] == "rank correlation"
        sure = row["p_holm"] < 0.05 if by_rank else row["significant"] is True
        axes.plot([row["estimate"]], [y], marker=seen.marker, ms=3.4, mew=0.8, color=seen.color,
                  mfc=seen.color if sure else "white", gid="estimate")  # fmt: skip
    axes.set_yticks(range(len(capabilities)), [label(name, 14) for name in capabilities])
    axes.set_ylim(len(capabilities) - 0.5, -0.5)
    axes.grid(axis="x", color="0.9", lw=0.5)
    axes.spines[["top", "right"]].set_visible(False)


def _limits(every: pd.DataFrame) -> tuple[float, float]:
    """The same on both sides of 0, and in all panels of a measure."""
    values = np.abs([numbers(every, name) for name in ("estimate", "low", "high")])
    most = 1.1 * max(0.2, float(np.nanmax(values, initial=0.0)))
    return -most, most


def _agreement_note() -> Line2D:
    return Line2D([], [], ls="", marker="o", ms=3.4, mfc="white", mec="0.35",
                  label="hollow: not different from 0 (Holm)")  # fmt: skip


@styled
def interaction_profiles(interaction: pd.DataFrame, width: float = FULL_WIDTH) -> Figure:
    """The share of the above-floor accuracy lost in each group of layers, by protocol.

    Args:
        interaction: the table ``protocol_interaction.parquet``.
        width: the widest the figure may be, inches.

    Returns:
        A panel per capability and pair of protocols, a line with bootstrap intervals for each
        protocol. Filled markers: the two profiles differ by more than a shift (Holm).
    """
    keys = ["capability", "first", "second"]
    plan = in_order(map(tuple, interaction[keys].to_numpy()), ())
    pairs = len({key[1:] for key in plan})
    # three abreast where they fit, so that each capability has its row
    least = 2.2 if pairs == 3 and len(plan) > 3 and width >= 3 * 2.2 else 1.6
    figure, panels = panel_grid(len(plan), width, least, 1.4, extra=0.9)
    for axes, key in zip(panels, plan, strict=True):
        _draw_interaction(axes, rows(interaction, **dict(zip(keys, key, strict=True))))
    drawn = [100 * numbers(interaction, f"share_{which}{end}")
             for which in ("first", "second") for end in ("", "_low", "_high")]  # fmt: skip
    panels[0].set_ylim(max(np.nanmin(drawn), _LEAST) - 4, min(np.nanmax(drawn), _MOST) + 6)
    for axes in panels[:: abreast(panels)]:
        axes.set_ylabel("above-floor accuracy\nlost per layer (%)")
    set_title(figure, "Does it depend on the way of asking where the loss is? (95 % intervals)")
    every = pd.concat([interaction[name] for name in ("first", "second")])
    legend_below(
        figure, [*protocol_handles(pd.DataFrame({"protocol": every})), _interaction_note()]
    )
    return figure


def _draw_interaction(axes: Axes, mine: pd.DataFrame) -> None:
    sure = bool((numbers(mine, "p_holm") < 0.05).all())
    x = np.arange(len(mine), dtype=float)
    axes.axhline(0, color="0.35", lw=0.6)
    for which, shift in (("first", -0.07), ("second", 0.07)):
        name = str(mine[which].iloc[0])
        seen = protocol_look(name)
        share, low, high = (
            100 * numbers(mine, f"share_{which}{end}") for end in ("", "_low", "_high")
        )
        line: dict[str, Any] = {"color": seen.color, "marker": seen.marker, "ls": seen.linestyle}
        axes.vlines(x + shift, low, high, color=seen.color, lw=1.1, gid=f"interval {name}")
        axes.plot(
            x + shift, share, **line, lw=0.9, ms=3.4, mew=0.8,
            mfc=seen.color if sure else "white", gid=f"share {name}",
        )  # fmt: skip
    first = mine.iloc[0]
    axes.set_title(
        f"{label(str(first['capability']), 16)}, n = {first['n_items']}\n"
        f"{p_value(first['p_holm'])} (Holm)",
        loc="left", pad=3,
    )  # fmt: skip
    axes.set_xticks(x, [label(str(name), 8) for name in mine["group"]])
    axes.set_xlim(-0.4, len(mine) - 0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _interaction_note() -> Line2D:
    return Line2D([], [], ls="", marker="o", c="0.35", ms=3.4, label="filled: profiles differ")
