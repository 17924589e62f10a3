"""The figure of this study: depths by capability, with intervals over training seeds.

It reads a comparison's table of estimates only.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy.stats import t

from layerwise.presentation.charts.panels import add_figure_legend
from layerwise.presentation.rows import rows
from layerwise.presentation.style import FULL_WIDTH, look, new_figure, with_style
from layerwise.presentation.wording import CAPABILITY_ORDER, in_order

# Method, measure and protocol of each panel, and what it is called.
PANELS = {
    ("ablation", "half-effect depth", "continuation"): "needed: ablation, chooses",
    ("ablation", "half-effect depth", "generate"): "needed: ablation, writes",
    ("logit lens", "prediction depth", "continuation"): "readable: logit lens, chooses",
    ("decoder lens", "prediction depth", "continuation"): (
        "encoder has done enough: decoder lens, chooses"
    ),
}


@with_style
def depths_over_seeds(estimates: pd.DataFrame, decoder_begins: float) -> Figure:
    """A point for each seed, and the mean of a group with its 95 % interval over seeds.

    Args:
        estimates: the table ``comparison_estimates.parquet``, of groups.
        decoder_begins: the relative depth at which the decoder of an encoder-decoder begins.
    """
    shown = rows(estimates, family="depth", axis="computation")
    groups = in_order(shown["group"], ())
    figure = new_figure(FULL_WIDTH, 4.4)
    grid = figure.subplots(2, 2, sharex=True, sharey=True).ravel()
    for axes, ((method, measure, protocol), title) in zip(grid, PANELS.items(), strict=True):
        _draw(axes, rows(shown, method=method, measure=measure, protocol=protocol), groups)
        axes.axvline(decoder_begins, color="0.4", lw=0.8, ls="--", zorder=0)
        axes.set_title(title, loc="left")
    for axes in grid[2:]:
        axes.set_xlabel("relative depth (0 = start, 1 = end)")
    add_figure_legend(figure, _handles(groups))
    return figure


def interval_over_seeds(values: np.ndarray) -> tuple[float, float, float]:
    """Mean and Student's 95 % interval of one value per seed."""
    half = t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean()), float(values.mean() - half), float(values.mean() + half)


def _draw(axes: Axes, shown: pd.DataFrame, groups: list[str]) -> None:
    for y, capability in enumerate(CAPABILITY_ORDER):
        for i, group in enumerate(groups):
            values = rows(shown, capability=capability, group=group)["estimate"].to_numpy(float)
            seen, at = look(i), y + 0.36 * (i - (len(groups) - 1) / 2)
            if len(values) > 1:  # one seed alone has no interval
                mean, low, high = interval_over_seeds(values)
                axes.plot([low, high], [at, at], color=seen.color, lw=1.4)
                axes.plot([mean], [at], marker=seen.marker, color=seen.color, ms=3.5)
            axes.plot(values, np.full(len(values), at + 0.16), ls="", marker="|", ms=4,
                      mew=0.8, color=seen.color)  # fmt: skip
    axes.set_yticks(range(len(CAPABILITY_ORDER)), CAPABILITY_ORDER)
    axes.set_ylim(len(CAPABILITY_ORDER) - 0.4, -0.6)
    axes.set_xlim(-0.02, 1.02)
    axes.grid(axis="x", color="0.9", lw=0.5)
    axes.spines[["top", "right"]].set_visible(False)


def _handles(groups: list[str]) -> list[Line2D]:
    made = [
        Line2D([], [], color=look(i).color, marker=look(i).marker, lw=1.4, ms=3.5,
               label=f"{group}: mean, 95 % interval over seeds")
        for i, group in enumerate(groups)
    ]  # fmt: skip
    seed = Line2D([], [], ls="", marker="|", ms=4, color="0.3", label="one seed")
    return [*made, seed, Line2D([], [], color="0.4", lw=0.8, ls="--", label="encoder | decoder")]
