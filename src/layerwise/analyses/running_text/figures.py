"""The picture of this analysis, from its table alone."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from layerwise.presentation.charts.lines import LineSeries, Words, draw_series, series
from layerwise.presentation.charts.panels import Panels
from layerwise.presentation.rows import numbers, rows
from layerwise.presentation.style import FULL_WIDTH, look, plain_log_scale, with_style
from layerwise.presentation.wording import count_range

FLOOR = 1e-3
_HEIGHT = 1.15
_NAMES = {"skip": "layer skipped", "swap": "layer swapped with the next"}


@with_style
def text_curves(effects: pd.DataFrame, width: float = FULL_WIDTH) -> Figure:
    """Bits lost per byte by layer, and the share of next tokens that stay.

    A swap stands between its two layers. Losses below 0.001 bits, gains among them, stand there.

    ``effects`` is the table ``text_effects``.
    """
    panels = Panels([[]], width, (_HEIGHT, _HEIGHT), most=FULL_WIDTH, left=0.55, share="x")
    ((loss, same),) = panels.axes
    words = Words("significant", "not significant", "95 % interval over texts")
    clipped = effects.assign(
        **{name: effects[name].astype(float).clip(lower=FLOOR) for name in ("bits", "low", "high")}
    )
    draw_series(loss, _series(clipped, "bits", ("low", "high"), 1, sure="significant"), words)
    draw_series(same, _series(effects, "agree", ("agree_low", "agree_high"), 100, unit=" %"))
    plain_log_scale(loss)
    loss.yaxis.set_major_locator(LogLocator(numticks=12))
    loss.set_ylim(bottom=0.8 * FLOOR)
    same.set_ylim(0, 104)
    same.grid(axis="y", color="0.92", lw=0.5)
    panels.over_layers(sorted({int(layer) for layer in effects["layer"]}))
    n = count_range(effects["n_pieces"], "piece")
    title = f"Running text under changes of layers (n = {n})"
    return panels.finish(title, "layer", ("bits lost per byte", "same next token, %"))


def _series(
    effects: pd.DataFrame,
    column: str,
    ends: tuple[str, str],
    scale: int,
    *,
    unit: str = "",
    sure: str | None = None,
) -> list[LineSeries]:
    """A line for each kind of change."""
    shown = []
    for number, (kind, name) in enumerate(_NAMES.items()):
        table = rows(effects, kind=kind)
        at = numbers(table, "layer") + 0.5 * (kind == "swap")
        shown.append(
            series(table, f"{column} {kind}", look(number), column, at=np.asarray(at), ends=ends,
                   scale=scale, unit=unit, sure=sure, label=name if len(table) else "")
        )  # fmt: skip
    return shown
