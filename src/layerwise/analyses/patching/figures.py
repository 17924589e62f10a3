"""Figures of ``patching``, drawn from its saved tables alone."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from layerwise.presentation.charts.heat import (
    ABSENT,
    DIVERGING,
    Mark,
    Row,
    cells,
    colour_limit,
    draw_heat,
    head_maps,
    map_height,
)
from layerwise.presentation.charts.panels import Bar, Panels, rows_and_columns, task_title
from layerwise.presentation.layer_axis import name_layers
from layerwise.presentation.lettering import label, text_inches
from layerwise.presentation.naming import name_layer, stacks
from layerwise.presentation.rows import by_task, layers_in, rows
from layerwise.presentation.section import bounds
from layerwise.presentation.style import FULL_WIDTH, with_style
from layerwise.presentation.wording import in_order, number, spread

from .tables import LABELS

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
_HEAD_SITES = {
    "z": "each head's output",
    "pattern": "each head's attention pattern",
    "cross_z": "each cross-attention head's output",
    "cross_pattern": "each head's cross-attention pattern",
}
_MINUS = Mark(
    f"below {number(_NEGATIVE, 1)}", lambda row: row["recovered"] < _NEGATIVE, "_", "negative",
    {"ms": 4.0, "mew": 0.7, "mec": "0.15"},
)  # fmt: skip


@with_style
def patching_map(
    summary: pd.DataFrame,
    site: str | None = None,
    width: float = FULL_WIDTH,
    direction: str | None = None,
) -> Figure:
    """The share of the logit difference recovered, by layer and position, a panel per task.

    Each cell is the mean gain over pairs divided by the mean distance between the clean and the
    corrupted run. Colours run from -1 to 1 about 0 and are clipped there; cells below -0.1 carry a
    minus sign where there is no room for their value, since blue and red look alike in grey. Grey
    cells were not patched.

    ``summary`` is the table that ``PatchingResult.summary`` gives.
    """
    site = str(summary["site"].iloc[0]) if site is None else site
    shown = rows(summary, site=site)
    direction = str(shown["direction"].iloc[0]) if direction is None else direction
    shown = rows(shown, direction=direction)
    tasks, layers = by_task(shown), layers_in(shown)
    names = in_order(shown["pos_label"], LABELS)
    down, _ = rows_and_columns(len(tasks), width, _LEAST)
    height = map_height(len(layers), 0.14, 4.2 if down == 1 else 2.6)
    titles = [task_title(of_task) for _, of_task in tasks]
    panels = Panels(titles, width, (height,), least=_LEAST, most=2.4)
    needed = _ROOM_FOR_TEXT[0] * len(names), _ROOM_FOR_TEXT[1] * len(layers)
    written = panels.room >= needed[0] and height >= needed[1]
    ends = ("corrupted", "clean") if direction == "denoising" else ("clean", "corrupted")
    unit = f"share {verb(direction)}, over n pairs (0 = {ends[0]} run, 1 = {ends[1]} run)"
    bar = Bar(DIVERGING, -1.0, 1.0, unit)
    for axes, (_, of_task) in zip(panels.flat, tasks, strict=True):
        drawn = cells(of_task, "recovered", ("layer", layers), ("pos_label", names),
                      [] if written else [_MINUS], _tell)  # fmt: skip
        draw_heat(axes, drawn, bar, (panels.room, height), absent=ABSENT)
        for (y, x), value in np.ndenumerate(drawn.values) if written else ():
            if not np.isnan(value):
                color = "white" if abs(value) > _DARK else "black"
                axes.text(x + 0.5, y + 0.5, number(float(value), 1), ha="center",
                          va="center_baseline", color=color)  # fmt: skip
        name_layers(axes, "y", layers, height, cells=True)
        axes.set_xticks(np.arange(len(names)) + 0.5, [label(one, 16) for one in names], rotation=90)
    what = _SITES.get(site, label(site))
    return panels.finish(
        f"Activation patching of {what}: share of the logit difference {verb(direction)}",
        y=["layer"], bar=bar, below=0.1 + max(text_inches(label(one, 16)) for one in names),
    )  # fmt: skip


def verb(direction: str) -> str:
    """Verb for what a patch does with the difference: in denoising recovered, in noising lost."""
    return _VERBS[direction]


def _tell(row: Row) -> str:
    share = bounds(row, "recovered", "recovered_low", "recovered_high", 100)
    return f"layer {name_layer(row['layer'])}, {row['pos_label']}: {share} %"


@with_style
def patching_heads(
    summary: pd.DataFrame, site: str = "z", direction: str | None = None, width: float = FULL_WIDTH
) -> Figure:
    """The share that patching one head carries over, a panel per task and position.

    Colours run about 0, to the largest share there is; dots mark what is significant after
    Benjamini and Hochberg's correction. Grey heads were not patched, or are not there. In an
    encoder-decoder one panel shows the encoder at the prompt's last position and the decoder where
    the answer is read.

    ``summary`` is the table that ``PatchingResult.summary`` gives.
    """
    shown = rows(summary, site=site)
    direction = str(shown["direction"].iloc[0]) if direction is None else direction
    shown = rows(shown, direction=direction)
    if "last" in set(shown["pos_label"]):
        # the answer's position in the decoder, and the prompt's last in the encoder
        shown = shown.assign(pos_label=shown["pos_label"].replace("answer", "last"))
    where = {"all": "from change to end", "last": "last position"}
    if stacks().n_encoder:
        where = {"all": "all positions", "last": "last, then answer"}
    named = [
        (
            [f"{task}, n = {spread(of_task['n_items'])}", where.get(at, at)],
            rows(of_task, pos_label=at),
        )
        for task, of_task in by_task(shown)
        for at in in_order(of_task["pos_label"], LABELS)
    ]
    limit = colour_limit(shown, "recovered")
    return head_maps(
        named,
        "recovered",
        Bar(DIVERGING, -limit, limit, f"share of the logit difference {verb(direction)}"),
        f"Activation patching of {_HEAD_SITES[site]} ({direction})",
        width,
        mark="significant (FDR 5 %)",
        tell=lambda row: f"{bounds(row, 'recovered', 'recovered_low', 'recovered_high', 100)} %",
    )
