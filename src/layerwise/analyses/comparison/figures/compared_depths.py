"""At what relative depth each capability emerges in each run, by method and protocol.

It reads a comparison's table of estimates only.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from layerwise.analyses.emergence.figures import METHODS
from layerwise.presentation.grid import legend_below, set_title
from layerwise.presentation.lettering import characters, label
from layerwise.presentation.rows import records, rows
from layerwise.presentation.style import COLUMN_WIDTH, FULL_WIDTH, Look, look, new_figure, styled
from layerwise.presentation.wording import CAPABILITY_ORDER, PROTOCOL_ORDER, in_order, spread_of

from .compared_roles import Block
from .differences import heading

# Of the two depths of a curve the one that noise moves least.
SHOWN = ("half-effect depth", "prediction depth")
_RUN, _GAP, _FOR_TWO = 0.105, 0.09, 4.8


@styled
def compared_depths(
    estimates: pd.DataFrame, blocks: Sequence[Block], width: float = FULL_WIDTH
) -> Figure:
    """Depths of the capabilities in every run, with their intervals.

    Args:
        estimates: the table ``comparison_estimates.parquet``, with a depth.
        blocks: the runs, in the order in which they are drawn.
        width: the widest the figure may be, inches.

    Returns:
        A panel per measure, method and protocol; in each a point with its interval
        per capability and run. Runs of one group share their look. Upright ticks: where the
        decoder of an encoder-decoder begins.
    """
    shown = rows(estimates, family="depth", axis="computation", measure=SHOWN)
    plan, looks = _plan(shown), _looks(blocks)
    capabilities = in_order(shown["capability"], CAPABILITY_ORDER)
    across = 2 if width >= _FOR_TWO and len(plan) > 1 else 1
    down = -(-len(plan) // across)
    height = len(capabilities) * (_RUN * len(blocks) + _GAP) + 0.5
    size = max(COLUMN_WIDTH, min(width, 3.45 * across)), down * height + 1.1
    figure = new_figure(*size)
    grid = list(figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).ravel())
    for spare in grid[len(plan) :]:
        spare.remove()
    for axes, (measure, method, protocol) in zip(grid, plan, strict=False):
        mine = rows(shown, measure=measure, method=method, protocol=protocol)
        _draw(axes, mine, capabilities, blocks, looks)
        fits = characters(size[0] / across - 0.6)
        name = heading("computation", measure, method, protocol, fits)
        axes.set_title(name, loc="left", pad=2)
    for axes in grid[: len(plan)][-across:]:
        axes.tick_params(labelbottom=True)
        axes.set_xlabel("relative depth (0 = start, 1 = end)")
    grid[0].set_xlim(-0.02, 1.02)
    items = f"n = {spread_of(shown['n_items'], 'item')} a point"
    set_title(figure, f"Depth of capabilities by run (95 % intervals over items, {items})")
    legend_below(figure, [*_handles(looks), *_boundary(blocks)])
    return figure


def _plan(shown: pd.DataFrame) -> list[tuple[str, str, str]]:
    there = set(zip(shown["measure"], shown["method"], shown["protocol"], strict=True))
    return [
        (measure, method, protocol)
        for measure in SHOWN
        for method in in_order(shown["method"], METHODS)
        for protocol in in_order(shown["protocol"], PROTOCOL_ORDER)
        if (measure, method, protocol) in there
    ]


def _looks(blocks: Sequence[Block]) -> dict[str, Look]:
    """A look for each group, or for each run that has none."""
    kinds = dict.fromkeys(block.group or block.name for block in blocks)
    return {kind: look(i) for i, kind in enumerate(kinds)}


def _draw(
    axes: Axes,
    mine: pd.DataFrame,
    capabilities: list[str],
    blocks: Sequence[Block],
    looks: dict[str, Look],
) -> None:
    names, step = [block.name for block in blocks], 0.8 / len(blocks)
    for row in records(mine):
        block = blocks[names.index(row["run"])]
        seen, place = looks[block.group or block.name], blocks.index(block) - (len(blocks) - 1) / 2
        y = capabilities.index(row["capability"]) + step * place
        axes.plot([row["low"], row["high"]], [y, y], color=seen.color, lw=1.3, gid="interval",
                  solid_capstyle="butt")  # fmt: skip
        axes.plot([row["estimate"]], [y], marker=seen.marker, color=seen.color, ms=4, mec="white",
                  mew=0.4, gid="estimate")  # fmt: skip
        n_encoder, n_layers = block.stacks
        if n_encoder:
            axes.plot([n_encoder / n_layers], [y], ls="", marker="|", ms=5, mew=0.9, color="0.45",
                      gid="decoder begins", zorder=1)  # fmt: skip
    axes.set_yticks(range(len(capabilities)), [label(name, 14) for name in capabilities])
    axes.set_ylim(len(capabilities) - 0.4, -0.6)
    axes.grid(axis="x", color="0.9", lw=0.5)
    axes.spines[["top", "right"]].set_visible(False)


def _boundary(blocks: Sequence[Block]) -> list[Line2D]:
    if not any(block.stacks.n_encoder for block in blocks):
        return []
    return [Line2D([], [], ls="", marker="|", ms=5, mew=0.9, color="0.45",
                   label="encoder | decoder")]  # fmt: skip


def _handles(looks: dict[str, Look]) -> list[Line2D]:
    handles = []
    for name, seen in looks.items():
        handle = Line2D([], [], color=seen.color, marker=seen.marker, lw=1.3, ms=4, mec="white")
        handle.set_label(label(name, 30))
        handles.append(handle)
    return handles
