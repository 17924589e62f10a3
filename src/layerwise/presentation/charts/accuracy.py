"""Accuracies with what they are measured by: the intact model, and the floor.

Over layers that are changed one at a time, and over numbers of layers that are removed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

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
    first, floor = line.iloc[0], floor_of(line)
    signal, intact = bool(first["signal"]), float(first["acc_intact"])
    ends = {"low": line["acc_diff_high"], "high": line["acc_diff_low"]}
    drawn: pd.DataFrame = line.assign(
        **{end: (intact - loss).clip(0, 1) for end, loss in ends.items()}
    )
    if x == "step":  # nothing is removed at first
        start = dict.fromkeys(("acc", "low", "high"), intact) | {"step": 0}
        drawn = pd.concat([pd.DataFrame([start]), pd.DataFrame(drawn[list(start)])])
    accuracies = series(
        drawn, f"accuracy {name}", look, "acc", x=x, ends=("low", "high"), scale=100, unit=" %",
        pale=not signal, **how,
    )  # fmt: skip
    draw_series(axes, [accuracies], words)
    alpha = 1.0 if signal else PALE
    looks: dict[str, Any] = {"color": look.color, "alpha": alpha}
    level(axes, 100 * intact, gid="intact", label="intact model", ls=DOTTED, lw=0.9, **looks)
    level(axes, floor, gid="floor", label="floor", ls=DASHED, lw=0.8, **looks)


def floor_of(line: pd.DataFrame) -> float:
    """The floor of a line of effects, in percent; stated chance in tables that have none."""
    floor = line["floor"].astype(float).iloc[0] if "floor" in line else np.nan
    return 100 * float(line["chance"].iloc[0] if np.isnan(floor) else floor)
