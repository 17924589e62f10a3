"""The pictures of this analysis, each from its tables alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure

from layerwise.presentation.grid import (
    abreast,
    layer_ticks,
    panel_grid,
    rows_and_columns,
    set_title,
)
from layerwise.presentation.head_maps import ABSENT, finish_heads, scale_of
from layerwise.presentation.layer_axis import name_layers
from layerwise.presentation.lettering import characters, label
from layerwise.presentation.naming import stacks
from layerwise.presentation.panels import tasks_in_order
from layerwise.presentation.rows import layers_of, rows
from layerwise.presentation.style import FULL_WIDTH, styled
from layerwise.presentation.wording import in_order, number, spread

POSITIONS = (
    "before", "first changed", "middle changed", "last changed", "next", "further", "last",
    "start", "answer", "all",
)  # fmt: skip
_VERBS = {"denoising": "recovered", "noising": "lost"}
_SITES = {
    "resid_pre": "the residual stream before each layer",
    "resid_mid": "the residual stream after attention",
    "resid_post": "the residual stream after each layer",
    "attn_out": "each layer's attention output",
    "mlp_out": "each layer's MLP output",
    "resid_mid_cross": "the residual stream after cross-attention",
    "cross_attn_out": "each layer's cross-attention output",
    "cross_k": "the keys that cross-attention reads",
    "cross_v": "the values that cross-attention reads",
}
_ROOM_FOR_TEXT, _LEAST = (0.27, 0.125), 1.45
_NEGATIVE, _DARK = -0.1, 0.6
NOT_PATCHED = ABSENT
_HEAD_SITES = {
    "z": "each head's output",
    "pattern": "each head's attention pattern",
    "cross_z": "each cross-attention head's output",
    "cross_pattern": "each head's cross-attention pattern",
}
_WHERE = {"all": "from change to end", "last": "last position"}
_IN_TWO_STACKS = {"all": "all positions", "last": "last, then answer"}


@styled
def patching_map(
    summary: pd.DataFrame,
    site: str | None = None,
    width: float = FULL_WIDTH,
    direction: str | None = None,
) -> Figure:
    """The share of the logit difference recovered, by layer and position, a panel per task.

    Args:
        summary: the table that ``PatchingResult.summary`` gives.
        site: the site shown; the first in the table if None.
        width: the widest the figure may be, inches.
        direction: the direction shown; the first of the site if None.

    Returns:
        Each cell is the mean gain over pairs divided by the mean distance between the clean
        and the corrupted run. Colours run from
        -1 to 1 about 0 and are clipped there; cells below -0.1 carry a minus sign where
        there is no room for their value, since blue and red look alike in grey. Grey cells were
        not patched.
    """
    site = str(summary["site"].iloc[0]) if site is None else site
    shown = rows(summary, site=site)
    direction = str(shown["direction"].iloc[0]) if direction is None else direction
    shown = rows(shown, direction=direction)
    tasks = tasks_in_order(shown)
    layers = layers_of(shown)
    down, _ = rows_and_columns(len(tasks), width, _LEAST)
    height = float(np.clip(0.14 * len(layers), 0.8, 4.2 if down == 1 else 2.6))
    figure, panels = panel_grid(len(tasks), width, _LEAST, height + 0.5, most=2.4, extra=2.1)
    labels = in_order(shown["pos_label"], POSITIONS)
    room = figure.get_figwidth() / abreast(panels) - 0.35, height
    for axes, task in zip(panels, tasks, strict=True):
        mine = rows(shown, task=task)
        _draw(axes, _table(mine, layers, labels), room)
        _name(axes, mine, room[0])
    _finish(figure, panels, 0.1 / (height * down), direction)
    set_title(figure, f"Activation patching of {_SITES.get(site, label(site))}: "
              f"share of the logit difference {verb(direction)}")  # fmt: skip
    return figure


def verb(direction: str) -> str:
    """What a patch does with the difference: in denoising it is recovered, in noising lost."""
    return _VERBS[direction]


def _table(mine: pd.DataFrame, layers: list[int], labels: list[str]) -> pd.DataFrame:
    """Layers (rows) by position labels (columns); a label that a task lacks is missing."""
    wide = mine.pivot_table(index="layer", columns="pos_label", values="recovered")
    return wide.reindex(index=layers, columns=labels).astype(float)


def _draw(axes: Axes, table: pd.DataFrame, room: tuple[float, float]) -> None:
    down, across = table.shape
    needed = _ROOM_FOR_TEXT[0] * across, _ROOM_FOR_TEXT[1] * down
    written = room[0] >= needed[0] and room[1] >= needed[1]
    axes.pcolormesh(
        np.ma.masked_invalid(table.to_numpy()), cmap=color_map(), vmin=-1, vmax=1,
        edgecolors="white" if written else "none", linewidth=0.2 if written else 0,
    )  # fmt: skip
    (_write_values if written else _minus_signs)(axes, table)
    layers = [int(layer) for layer in table.index]
    name_layers(axes, "y", layers, room[1], cells=True)
    names = [label(str(name), 16) for name in table.columns]
    axes.set_xticks(np.arange(across) + 0.5, names, rotation=90)
    axes.tick_params(length=0)
    axes.set_facecolor(NOT_PATCHED)
    axes.set_ylim(down, 0)
    axes.spines[:].set_visible(False)


def color_map() -> Colormap:
    """Blue below 0, white, red above."""
    return sns.color_palette("vlag", as_cmap=True)


def _write_values(axes: Axes, table: pd.DataFrame) -> None:
    for (y, x), value in np.ndenumerate(table.to_numpy()):
        if not np.isnan(value):
            color = "white" if abs(value) > _DARK else "black"
            place: Any = {"ha": "center", "va": "center_baseline", "color": color}
            axes.text(x + 0.5, y + 0.5, number(float(value), 1), **place)


def _minus_signs(axes: Axes, table: pd.DataFrame) -> None:
    down, across = np.nonzero(table.to_numpy() < _NEGATIVE)
    axes.plot(across + 0.5, down + 0.5, ls="", marker="_", ms=4, mew=0.7, c="0.15", gid="negative")


def _name(axes: Axes, mine: pd.DataFrame, inches: float) -> None:
    pairs = spread(mine["n_items"])
    name = label(str(mine["task"].iloc[0]), characters(inches))
    capability = label(str(mine["capability"].iloc[0]), 12)
    axes.set_title(f"{name}\n{capability}, n = {pairs}", loc="left", pad=3)


def _finish(figure: Figure, panels: list[Axes], fraction: float, direction: str) -> None:
    for axes in panels[:: abreast(panels)]:
        axes.set_ylabel("layer")
    bar = figure.colorbar(
        ScalarMappable(Normalize(-1, 1), color_map()), ax=panels, location="bottom", pad=0.02,
        fraction=fraction, aspect=25,
    )  # fmt: skip
    bar.set_ticks([-1, -0.5, 0, 0.5, 1])
    gap = " " if figure.get_figwidth() > 5 else "\n"
    ends = ("corrupted", "clean") if direction == "denoising" else ("clean", "corrupted")
    bar.set_label(
        f"share {verb(direction)}, over n pairs{gap}(0 = {ends[0]} run, 1 = {ends[1]} run)"
    )
    bar.ax.spines[:].set_linewidth(0.4)


@styled
def patching_heads(
    summary: pd.DataFrame, site: str = "z", direction: str | None = None, width: float = FULL_WIDTH
) -> Figure:
    """The share that patching one head carries over, a panel per task and position.

    Args:
        summary: the table that ``PatchingResult.summary`` gives.
        site: ``z`` or ``pattern``, ``cross_z`` or ``cross_pattern``.
        direction: the direction shown; the first in the table if None.
        width: the widest the figure may be, inches.

    Returns:
        Colours run about 0, to the largest share there is; dots mark what is significant after
        Benjamini and Hochberg's correction. Grey heads were not patched, or are not there. In an
        encoder-decoder one panel shows the encoder at the prompt's last position and the decoder
        where the answer is read.
    """
    shown = _ends_together(rows(summary, site=site))
    direction = str(shown["direction"].iloc[0]) if direction is None else direction
    shown = rows(shown, direction=direction)
    named = [
        (task, where)
        for task in tasks_in_order(shown)
        for where in in_order(rows(shown, task=task)["pos_label"], POSITIONS)
    ]
    layers, heads = layers_of(shown), sorted({int(head) for head in shown["head"]})
    down, _ = rows_and_columns(len(named), width, _LEAST)
    height = float(np.clip(0.1 * len(layers), 0.9, 3.6 if down == 1 else 2.0))
    figure, panels = panel_grid(len(named), width, _LEAST, height + 0.5, most=2.4, extra=1.5)
    room = figure.get_figwidth() / abreast(panels) - 0.45, height
    limit = scale_of(shown, "recovered")
    for axes, (task, where) in zip(panels, named, strict=True):
        mine = rows(shown, task=task, pos_label=where)
        _draw_heads(axes, mine, layers, heads, limit)
        _name_heads(axes, mine, where, room[0])
        name_layers(axes, "y", layers, room[1], cells=True)
        ticks = layer_ticks(heads, room[0])
        axes.set_xticks([heads.index(tick) + 0.5 for tick in ticks], [str(t) for t in ticks])
        axes.tick_params(length=0)
        axes.set_facecolor(NOT_PATCHED)
        axes.spines[:].set_visible(False)
    gap = " " if figure.get_figwidth() > 5 else "\n"
    unit = f"share of the logit difference {verb(direction)}{gap}(dot: significant, FDR 5 %)"
    colors = ScalarMappable(Normalize(-limit, limit), color_map())
    finish_heads(figure, panels, colors, unit, 0.1 / (height * down)).set_ticks([-limit, 0, limit])
    set_title(figure, f"Activation patching of {_HEAD_SITES[site]} ({direction})")
    return figure


def _ends_together(shown: pd.DataFrame) -> pd.DataFrame:
    """The answer's position in the decoder under the name of the prompt's last in the encoder."""
    if "last" not in set(shown["pos_label"]):
        return shown
    return shown.assign(pos_label=shown["pos_label"].replace("answer", "last"))


def _draw_heads(
    axes: Axes, mine: pd.DataFrame, layers: list[int], heads: list[int], limit: float
) -> None:
    wide, sure = (
        mine.pivot_table(index="layer", columns="head", values=name, aggfunc="first")
        .reindex(index=layers, columns=heads)
        .astype(float)
        .to_numpy()
        for name in ("recovered", "significant")
    )
    axes.pcolormesh(
        np.ma.masked_invalid(wide), cmap=color_map(), vmin=-limit, vmax=limit, gid="heads"
    )
    down, across = np.nonzero(sure == 1)
    axes.plot(across + 0.5, down + 0.5, ls="", marker=".", ms=2.5, c="black", gid="significant")
    axes.set_ylim(len(layers), 0)
    axes.set_xlim(0, len(heads))


def _name_heads(axes: Axes, mine: pd.DataFrame, where: str, inches: float) -> None:
    fits, pairs = characters(inches), f", n = {spread(mine['n_items'])}"
    task = label(str(mine["task"].iloc[0]), fits - len(pairs))
    names = _WHERE | _IN_TWO_STACKS if stacks().n_encoder else _WHERE
    place = label(names.get(where, where), fits)
    axes.set_title(f"{task}{pairs}\n{place}", loc="left", pad=3)
