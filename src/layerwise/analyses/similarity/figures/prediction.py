"""How well similarity ranks layers by what skipping them costs: correlations with intervals.

It reads a prediction table only.
"""

from __future__ import annotations

from itertools import product

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from layerwise.ground.layer_names import DECODER, ENCODER
from layerwise.presentation.grid import legend_below, rows_and_columns, set_title
from layerwise.presentation.lettering import label
from layerwise.presentation.rows import records, rows
from layerwise.presentation.style import COLUMN_WIDTH, FULL_WIDTH, look, new_figure, styled
from layerwise.presentation.wording import CAPABILITY_ORDER, PROTOCOL_ORDER, in_order

NAMES = {"influence": "block influence", "angular": "angular distance", "cka": "1 − CKA"}
EFFECTS = {"share_lost": "accuracy lost", "nats": "log-probability lost"}
_BOTH = ""
_ROW, _STEP, _LEAST = 0.34, 0.24, 2.0


@styled
def prediction_ranges(prediction: pd.DataFrame, width: float = FULL_WIDTH) -> Figure:
    """Rank correlations over layers, a panel per protocol and effect.

    Args:
        prediction: the table ``prediction.parquet``.
        width: the widest the figure may be, inches.

    Returns:
        A row per capability, a point with its bootstrap interval over items per predictor; under
        it rows of each stack's layers alone, if there are two. Filled points differ from 0 after
        Holm's correction.
    """
    prediction = prediction.assign(stack=prediction["stack"].fillna(_BOTH))
    stacks = in_order(prediction["stack"], (_BOTH, ENCODER, DECODER))
    capabilities = in_order(prediction["capability"], CAPABILITY_ORDER)
    lines = list(product(capabilities, stacks))
    plan = [
        (protocol, effect)
        for effect in EFFECTS
        for protocol in in_order(prediction["protocol"], PROTOCOL_ORDER)
        if len(rows(prediction, protocol=protocol, effect=effect))
    ]
    down, across = rows_and_columns(len(plan), width, _LEAST)
    size = min(width, max(COLUMN_WIDTH, 2.4 * across)), down * (_ROW * len(lines) + 0.5) + 1
    figure = new_figure(*size)
    grid = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).ravel()
    for axes, (protocol, effect) in zip(grid, plan, strict=False):
        _draw(axes, rows(prediction, protocol=protocol, effect=effect), lines)
        axes.set_title(f"{label(protocol, 14)}: {EFFECTS[effect]}", loc="left", pad=3)
        axes.tick_params(labelbottom=True)
    for spare in grid[len(plan) :]:
        spare.remove()
    for axes in grid[max(0, len(plan) - across) : len(plan)]:
        axes.set_xlabel("rank correlation over layers")
    set_title(
        figure, "Does similarity tell which layers can be skipped? (Spearman, 95 % over items)"
    )
    legend_below(figure, _handles())
    return figure


def _draw(axes: Axes, mine: pd.DataFrame, lines: list[tuple[str, str]]) -> None:
    axes.axvline(0, color="0.6", lw=0.6)
    for row in records(mine):
        i = list(NAMES).index(row["predictor"])
        seen, y = look(i), lines.index((row["capability"], row["stack"])) + _STEP * (i - 1)
        if pd.isna(row["rho"]):
            continue
        if not pd.isna(row["low"]):
            axes.plot([row["low"], row["high"]], [y, y], color=seen.color, lw=1.2, gid="interval")
        sure = row["p_holm"] < 0.05
        axes.plot([row["rho"]], [y], marker=seen.marker, ms=3.6, mew=0.8, color=seen.color,
                  mfc=seen.color if sure else "white", gid="rho")  # fmt: skip
    names = [label(capability if stack == _BOTH else stack, 14) for capability, stack in lines]
    axes.set_yticks(range(len(lines)), names)
    axes.set_ylim(len(lines) - 0.5, -0.5)
    axes.set_xlim(-1.05, 1.05)
    axes.grid(axis="x", color="0.9", lw=0.5)
    axes.spines[["top", "right"]].set_visible(False)


def _handles() -> list[Line2D]:
    handles = []
    for i, name in enumerate(NAMES.values()):
        seen = look(i)
        handles.append(
            Line2D([], [], color=seen.color, marker=seen.marker, ms=3.6, lw=1.2, label=name)
        )
    hollow = Line2D([], [], ls="", marker="o", ms=3.6, mfc="white", mec="0.35",
                    label="hollow: not significant over items and layers")  # fmt: skip
    return [*handles, hollow]
