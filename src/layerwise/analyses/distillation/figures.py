"""The pictures of this analysis, each from its tables alone."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from layerwise.presentation.grid import legend_below, set_title
from layerwise.presentation.rows import numbers
from layerwise.presentation.style import COLUMN_WIDTH, look, new_figure, styled

# Points that the line of a long training is drawn with.
_POINTS = 100


@styled
def training_curve(curve: pd.DataFrame, width: float = COLUMN_WIDTH) -> Figure:
    """The divergence that is minimised, and that on held-out texts, against the step.

    Args:
        curve: ``distillation_curve.parquet``.
        width: the widest the figure may be, inches.

    Returns:
        Nats a token on a logarithmic scale; the line is a mean over neighbouring steps.
    """
    figure = new_figure(min(width, COLUMN_WIDTH), 2.5)
    axes = figure.subplots()
    steps = curve.loc[curve["divergence"].notna()]
    groups = np.array_split(np.arange(len(steps)), min(_POINTS, max(len(steps), 1)))
    at, means = (
        [float(numbers(steps, name)[group].mean()) for group in groups if len(group)]
        for name in ("step", "divergence")
    )
    trained = axes.plot(at, means, color=look(0).color, lw=0.9, gid="divergence")[0]
    measured = curve.loc[curve["held_out_kl"].notna()]
    held_out = axes.plot(
        numbers(measured, "step"), numbers(measured, "held_out_kl"), color=look(1).color,
        ls=look(1).linestyle, lw=0.9, marker=look(1).marker, ms=3, gid="held_out_kl",
    )[0]  # fmt: skip
    trained.set_label("training texts, as minimised")
    held_out.set_label("held-out texts, KL at temperature 1")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("step")
    axes.set_ylabel("divergence (nats a token)")
    axes.grid(axis="y", color="0.92", lw=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    legend_below(figure, [trained, held_out])
    set_title(figure, "Divergence of the student from its teacher")
    return figure
