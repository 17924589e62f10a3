"""Two measures of the same things against each other."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from layerwise.presentation.style import figure_of, look


def draw_scatter(
    axes: Axes, x: np.ndarray, y: np.ndarray, tooltips: list[str], ends: tuple[float, float]
) -> None:
    """Points of two measures in one unit, and the line on which they are equal."""
    axes.plot(ends, ends, c="0.6", lw=0.6, ls="--", gid="equal")
    axes.plot(x, y, ls="", marker="o", ms=2.5, mew=0, alpha=0.7, c=look(0).color, gid="cells")
    for at, value, text in zip(x, y, tooltips, strict=True):
        figure_of(axes).tell(axes, (at, value, at, value), text)
    axes.spines[["top", "right"]].set_visible(False)
