"""Accuracies with what they are measured by: the intact model, and the floor.

Over layers that are changed one at a time, and over numbers of layers that are removed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from layerwise.presentation.rows import numbers
from layerwise.presentation.style import Look

from .lines import draw_series
from .marks import DASHED, DOTTED, PALE, level
from .series import Words, series


def draw_accuracy(
    axes: Axes, line: pd.DataFrame, name: str, look: Look, words: Words, *, x: str, **how: Any
) -> None:
    """A line of accuracies in percent, with the intact model's and the floor as levels.

    Bands are the intervals of the loss, drawn about the accuracy. Without signal there is none,
    and the line is pale.
    """
    signal = bool(line["signal"].iloc[0])
    intact, floor = 100 * float(line["acc_intact"].iloc[0]), floor_of(line)
    drawn = series(line, f"accuracy {name}", look, "acc", x=x, scale=100, unit=" %", **how)
    low, high = (
        (intact - 100 * numbers(line, end)).clip(0, 100)
        for end in ("acc_diff_high", "acc_diff_low")
    )
    at, middle, told = drawn.at, drawn.middle, drawn.told
    if x == "step":
        at, told = np.insert(at, 0, 0.0), ("", *told)
        middle, low, high = (np.insert(values, 0, intact) for values in (middle, low, high))
    drawn = replace(
        drawn, at=at, middle=middle, low=low, high=high, told=told, pale=not signal
    )  # fmt: skip
    draw_series(axes, [drawn], words)
    alpha = 1.0 if signal else PALE
    looks: dict[str, Any] = {"color": look.color, "alpha": alpha}
    level(axes, intact, gid="intact", label="intact model", ls=DOTTED, lw=0.9, **looks)
    level(axes, floor, gid="floor", label="floor", ls=DASHED, lw=0.8, **looks)


def floor_of(line: pd.DataFrame) -> float:
    """The floor of a line of effects, in percent; stated chance in tables that have none."""
    floor = line["floor"].astype(float).iloc[0] if "floor" in line else np.nan
    return 100 * float(line["chance"].iloc[0] if np.isnan(floor) else floor)
