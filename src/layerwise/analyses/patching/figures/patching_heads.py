"""Which heads carry the answer: layers by heads, a panel per task and position.

It reads the averages that a patching result gives; none is made here.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

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
from layerwise.presentation.naming import stacks
from layerwise.presentation.panels import tasks_in_order
from layerwise.presentation.rows import layers_of, rows
from layerwise.presentation.style import FULL_WIDTH, styled
from layerwise.presentation.wording import in_order, spread

from .patching import NOT_PATCHED, POSITIONS, color_map, verb

_SITES = {
    "z": "each head's output",
    "pattern": "each head's attention pattern",
    "cross_z": "each cross-attention head's output",
    "cross_pattern": "each head's cross-attention pattern",
}
_WHERE = {"all": "from change to end", "last": "last position"}
_IN_TWO_STACKS = {"all": "all positions", "last": "last, then answer"}
_LEAST = 1.45


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
        _draw(axes, mine, layers, heads, limit)
        _name(axes, mine, where, room[0])
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
    set_title(figure, f"Activation patching of {_SITES[site]} ({direction})")
    return figure


def _ends_together(shown: pd.DataFrame) -> pd.DataFrame:
    """The answer's position in the decoder under the name of the prompt's last in the encoder."""
    if "last" not in set(shown["pos_label"]):
        return shown
    return shown.assign(pos_label=shown["pos_label"].replace("answer", "last"))


def _draw(
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


def _name(axes: Axes, mine: pd.DataFrame, where: str, inches: float) -> None:
    fits, pairs = characters(inches), f", n = {spread(mine['n_items'])}"
    task = label(str(mine["task"].iloc[0]), fits - len(pairs))
    names = _WHERE | _IN_TWO_STACKS if stacks().n_encoder else _WHERE
    place = label(names.get(where, where), fits)
    axes.set_title(f"{task}{pairs}\n{place}", loc="left", pad=3)
