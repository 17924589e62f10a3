"""Figures of ``distillation``, drawn from its saved tables alone."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from layerwise.presentation.charts.lines import draw_series, series
from layerwise.presentation.charts.panels import Panels
from layerwise.presentation.style import COLUMN_WIDTH, look, plain_log_scale, with_style

# Points that the line of a long training is drawn with.
_POINTS = 100


@with_style
def training_curve(curve: pd.DataFrame, width: float = COLUMN_WIDTH) -> Figure:
    """The divergence that is minimised, and that on held-out texts, against the step.

    Nats a token on a logarithmic scale; the line is a mean over neighbouring steps.

    ``curve`` is ``distillation_curve.parquet``.
    """
    steps = curve.loc[curve["divergence"].notna(), ["step", "divergence"]].astype(float)
    groups = np.arange(len(steps)) * min(_POINTS, len(steps)) // max(1, len(steps))
    means = pd.DataFrame(steps.groupby(groups).mean())
    measured = pd.DataFrame(curve.loc[curve["held_out_kl"].notna()])
    panels = Panels([[]], min(width, COLUMN_WIDTH), (1.5,))
    (axes,) = panels.flat
    draw_series(axes, [
        series(means, "divergence", look(0), "divergence", x="step", unit=" nats", every=10**6,
               label="training texts, as minimised"),
        series(measured, "held_out_kl", look(1), "held_out_kl", x="step", unit=" nats",
               label="held-out texts, KL at temperature 1"),
    ])  # fmt: skip
    plain_log_scale(axes)
    title = "Divergence of the student from its teacher"
    return panels.finish(title, "step", ["divergence (nats a token)"])
