"""The role map: layers down, tasks and protocols across, colour for the accuracy lost.

It reads an effects table only.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from layerwise.presentation.grid import legend_below, set_title
from layerwise.presentation.layer_axis import name_layers
from layerwise.presentation.lettering import FONT, characters, label, text_inches
from layerwise.presentation.rows import layers_of, numbers, rows
from layerwise.presentation.style import FULL_WIDTH, new_figure, styled
from layerwise.presentation.wording import (
    CAPABILITY_ORDER,
    LAYER_MAIN,
    PROTOCOL_ORDER,
    capitalised,
    doing,
    in_order,
    spread_of,
)

NARROW, BROAD = 0.135, 0.5
GAP, TASK_GAP = 0.1, 0.04
_LEFT, _HEADINGS = 0.55, 1.3
HATCH = {"facecolor": "0.94", "edgecolor": "0.6", "hatch": "////", "linewidth": 0}
_LOSS, _GAIN = ("significant loss", "o"), ("significant gain", "^")
_LONGEST_TASK, _UPRIGHT, _LINE = 44, 20, 0.125


@dataclass(frozen=True)
class TaskBlock:
    """The columns of one task: one per protocol, side by side."""

    capability: str
    task: str
    protocols: tuple[str, ...]


@dataclass(frozen=True)
class Placed:
    """A task's block at its place: ``left`` edge and ``column`` width."""

    block: TaskBlock
    left: float
    column: float

    @property
    def right(self) -> float:
        """The right edge."""
        return self.left + self.column * len(self.block.protocols)


@dataclass(frozen=True)
class Band:
    """One strip of the map: blocks beside each other, and where each capability lies."""

    blocks: tuple[Placed, ...]
    headings: tuple[tuple[str, float, float], ...]
    width: float


def task_blocks(effects: pd.DataFrame) -> list[TaskBlock]:
    """The tasks of an effects table by capability, each with its protocols in order."""
    blocks = []
    for capability in in_order(effects["capability"], CAPABILITY_ORDER):
        mine = rows(effects, capability=capability)
        for task in in_order(mine["task"], ()):
            protocols = in_order(rows(mine, task=task)["protocol"], PROTOCOL_ORDER)
            blocks.append(TaskBlock(str(capability), str(task), tuple(protocols)))
    return blocks


def layout(blocks: list[TaskBlock], room: float) -> list[Band]:
    """Blocks in one band with columns as broad as fit, or in several with narrow ones."""
    broad = BROAD
    while broad > NARROW and _band(blocks, broad).width > room:
        broad -= 0.005
    bands: list[list[TaskBlock]] = [[]]
    for block in blocks:
        if bands[-1] and _band([*bands[-1], block], max(broad, NARROW)).width > room:
            bands.append([])
        bands[-1].append(block)
    return [_band(band, max(broad, NARROW)) for band in bands]


def _band(blocks: list[TaskBlock], column: float) -> Band:
    left, placed, headings = 0.0, [], []
    for capability in dict.fromkeys(block.capability for block in blocks):
        start = left
        for block in (block for block in blocks if block.capability == capability):
            placed.append(Placed(block, left, column))
            left = placed[-1].right + TASK_GAP
        end = left - TASK_GAP
        headings.append((capability, start, end))
        # A heading broader than its columns needs the room beside them.
        left = max(end, start + text_inches(capability)) + GAP
    return Band(tuple(placed), tuple(headings), left - GAP)


@styled
def role_map(
    effects: pd.DataFrame,
    kind: str = LAYER_MAIN[0],
    site: str = LAYER_MAIN[1],
    width: float = FULL_WIDTH,
    signal: pd.DataFrame | None = None,
) -> Figure:
    """Which layers each task needs under each protocol.

    Args:
        effects: the table ``effects.parquet``.
        kind: the kind of intervention shown.
        site: its site.
        width: the widest the figure may be, inches.
        signal: the table ``signal.parquet``; what has no signal gets a hatched column even if
            no layer was changed there.

    Returns:
        Colour is the share of the above-floor accuracy that is lost, clipped to 0 to 1; a
        dot marks a loss that is significant after Holm's correction, a triangle a gain;
        hatched columns have no signal. Many columns are broken into several strips.
    """
    shown = rows(effects, kind=kind, site=site)
    layers = layers_of(shown)
    silent = [] if signal is None else [rows(signal, signal=False)]
    bands = layout(task_blocks(pd.concat([shown, *silent])), width - _LEFT - 0.1)
    strip = _strip_height(len(layers), len(bands))
    broad = max(band.width for band in bands)
    figure = new_figure(
        min(width, max(3.3, broad + _LEFT + 0.1)), len(bands) * (strip + _headings(bands)) + 1.1
    )
    panels = list(figure.subplots(len(bands), 1, squeeze=False).ravel())
    for axes, band in zip(panels, bands, strict=True):
        _draw_band(axes, band, shown, layers, strip)
        axes.set_xlim(0, max(broad, figure.get_figwidth() - _LEFT - 0.1))
    _explain(figure, doing(kind, site, "a layer"), shown)
    share_bar(figure, panels, 0.1 / (strip * len(bands)))
    return figure


def color_map() -> Colormap:
    """White to dark blue-green: even steps of lightness, so that it survives a grey print."""
    return sns.color_palette("mako_r", as_cmap=True)


def _strip_height(n_layers: int, n_bands: int) -> float:
    return float(np.clip(0.16 * n_layers, 0.9, 6.0 if n_bands == 1 else 4.0))


def _headings(bands: list[Band]) -> float:
    """Inches for what stands above and below a strip, where long names may stand upright."""
    return max(_HEADINGS, *(0.4 + _names_below(band) for band in bands))


def _names_below(band: Band) -> float:
    protocols = [p for placed in band.blocks for p in placed.block.protocols]
    tasks = [_task_name(placed.block.task, placed.right - placed.left) for placed in band.blocks]
    heights = [
        len(name.split("\n")) * _LINE if flat else max(map(text_inches, name.split("\n")))
        for name, flat in tasks
    ]
    return max(text_inches(label(p, 14)) for p in protocols) + max(heights)


def _draw_band(
    axes: Axes, band: Band, shown: pd.DataFrame, layers: list[int], strip: float
) -> None:
    for placed in band.blocks:
        mine = rows(shown, task=placed.block.task)
        for i, protocol in enumerate(placed.block.protocols):
            column = rows(mine, protocol=protocol).set_index("layer").reindex(layers)
            left = placed.left + i * placed.column
            _draw_column(axes, left, placed.column, column, strip / len(layers))
    _label_band(axes, band)
    axes.set_ylim(len(layers), 0)
    name_layers(axes, "y", layers, strip, cells=True)
    axes.set_ylabel("layer")
    sns.despine(ax=axes, left=True, bottom=True)
    axes.tick_params(length=0)


def _draw_column(axes: Axes, left: float, wide: float, column: pd.DataFrame, cell: float) -> None:
    n = len(column)
    if not set(column["signal"]) & {True}:
        axes.add_patch(Rectangle((left, 0), wide, n, **HATCH))
        box = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
        place = (left + wide / 2, n / 2)
        axes.text(*place, "no signal", rotation=90, ha="center", va="center", bbox=box)
        return
    share = numbers(column, "share_lost").clip(0, 1)[:, None]
    axes.pcolormesh(
        [left, left + wide], np.arange(n + 1), share, cmap=color_map(), vmin=0, vmax=1,
        edgecolors="white", linewidth=0.3,
    )  # fmt: skip
    sure, losses = column["significant"].isin([True]), numbers(column, "acc_diff") > 0
    points = float(np.clip(min(wide, cell) * 72 * 0.42, 1.6, 5))
    for rows_, (gid, marker) in ((sure & losses, _LOSS), (sure & ~losses, _GAIN)):
        y = np.flatnonzero(rows_) + 0.5
        axes.scatter(
            np.full(len(y), left + wide / 2), y, s=points**2, marker=marker, c="white",
            edgecolors="black", linewidths=0.45, zorder=3, gid=gid,
        )  # fmt: skip


def _label_band(axes: Axes, band: Band) -> None:
    names = [(placed, p) for placed in band.blocks for p in placed.block.protocols]
    centres = [
        placed.left + (i + 0.5) * placed.column
        for placed in band.blocks
        for i in range(len(placed.block.protocols))
    ]
    axes.set_xticks(centres, [label(p, 14) for _, p in names], rotation=90)
    drop = max(text_inches(label(p, 14)) for _, p in names) * 72 + 4
    for placed in band.blocks:
        _label_task(axes, placed, drop)
    for capability, start, end in band.headings:
        across = axes.get_xaxis_transform()
        axes.plot([start, end], [1.012, 1.012], color="0.3", lw=1, transform=across, clip_on=False)
        axes.annotate(
            label(capability), (start, 1.012), xycoords=across, xytext=(0, 3),
            textcoords="offset points", va="bottom", fontweight="bold",
        )  # fmt: skip


def _label_task(axes: Axes, placed: Placed, drop: float) -> None:
    name, flat = _task_name(placed.block.task, placed.right - placed.left)
    axes.annotate(
        name, ((placed.left + placed.right) / 2, 0), xycoords=axes.get_xaxis_transform(),
        xytext=(0, -drop), textcoords="offset points", ha="center", va="top",
        rotation=0 if flat else 90, linespacing=1.05,
    )  # fmt: skip


def _task_name(task: str, inches: float) -> tuple[str, bool]:
    """A task's name on a few lines: lying if its words fit side by side, upright if not."""
    name = label(task, _LONGEST_TASK)
    lying = textwrap.wrap(name, characters(inches), break_long_words=False)
    if len(lying) <= 3 and all(text_inches(line) <= inches for line in lying):
        return "\n".join(lying), True
    lines = max(1, int(inches / _LINE))
    name = label(task, lines * _UPRIGHT)
    return "\n".join(textwrap.wrap(name, _UPRIGHT + 2)[:lines]), False


def _explain(figure: Figure, subject: str, shown: pd.DataFrame) -> None:
    items = f"n = {spread_of(shown['n_items'], 'item')} a column"
    set_title(figure, f"{capitalised(subject)}: accuracy lost, by task and protocol ({items})")
    sure = rows(shown, significant=True)
    handles = [mark("significant loss (Holm, p < 0.05)", _LOSS[1])]
    if (numbers(sure, "acc_diff") <= 0).any():
        handles.append(mark("significant gain", _GAIN[1]))
    silent = Patch(label="no signal: intact model not better than blind", **HATCH)
    legend_below(figure, [*handles, silent])


def mark(name: str, marker: str) -> Line2D:
    """A marker of the role map with its meaning, for a legend."""
    handle = Line2D([], [], ls="", marker=marker, mfc="white", mec="black", mew=0.45, label=name)
    handle.set_markersize(FONT / 2)
    return handle


def share_bar(figure: Figure, panels: list[Axes], fraction: float, pad: float = 0.02) -> None:
    """The bar of colours for shares of the above-floor accuracy that is lost."""
    bar = figure.colorbar(
        ScalarMappable(Normalize(0, 1), color_map()), ax=panels, location="bottom", pad=pad,
        fraction=fraction, aspect=25,
    )  # fmt: skip
    gap = " " if figure.get_figwidth() > 5 else "\n"
    bar.set_label(f"share of above-floor accuracy lost{gap}(0 = none, 1 = all; clipped)")
    bar.ax.spines[:].set_linewidth(0.4)
