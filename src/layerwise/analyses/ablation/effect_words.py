"""Effects of single layers in words: points with their bounds, and what could be seen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from layerwise.presentation.items import independent
from layerwise.presentation.power import could_be_found
from layerwise.presentation.rows import layers_of, numbers, rows
from layerwise.presentation.wording import (
    counted,
    interval,
    number,
)
from layerwise.stats.power import GAINED


def significant_losses(effects: pd.DataFrame) -> pd.DataFrame:
    """The rows whose effect is significant after Holm's correction and is a loss."""
    return pd.DataFrame(rows(effects, significant=True).query("acc_diff > 0"))


def points(row: dict[str, Any], sign: int = 1) -> str:
    """Accuracy points with bounds that cover together over all tests of the run."""
    ends = ("low", "high") if sign > 0 else ("high", "low")
    names = ("acc_diff", *(f"acc_diff_run_{end}" for end in ends))
    return f"{interval(*(100 * sign * row[name] for name in names))} accuracy points"


def what_could_be_seen(mine: pd.DataFrame) -> str:
    """How large a loss of a single layer the items of a table would have shown, in words."""
    n = independent(mine)
    noun = "item" if n == numbers(mine, "n_items").min() else "cluster"
    counts = numbers(mine, "n_gained") / numbers(mine, "n_items")
    gained = min(float(counts.mean()) if np.isfinite(counts).all() else GAINED, 0.45)
    n_layers = len(layers_of(mine))
    found = could_be_found(n, n_layers, round(gained, 3))
    return (
        f"with {counted(n, noun)} {found} (Holm's correction over {counted(n_layers, 'layer')}, "
        f"{number(100 * gained, 1)} % of the answers gained for nothing, as here)"
    )
