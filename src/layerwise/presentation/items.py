"""How many items a number stands on, and how many things they ask for, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from .wording import spread


def items_of(data: pd.DataFrame | Mapping[str, Any]) -> str:
    """``"80"``, or ``"80 in 40 clusters"`` where several ask for the same thing.

    Where they were asked with several draws of few-shot examples it says so:
    ``"80 over 5 draws of the examples"``.
    """
    table = data if isinstance(data, pd.DataFrame) else pd.DataFrame([dict(data)])
    items, clusters = spread(table["n_items"]), spread(_independent(table))
    text = items if items == clusters else f"{items} in {clusters} clusters"
    if "n_examples" not in table:
        return text
    draws = pd.Series(table["n_examples"]).dropna()
    several = len(draws) and int(draws.max()) > 1
    return f"{text} over {spread(draws)} draws of the examples" if several else text


def independent(table: pd.DataFrame) -> int:
    """The fewest clusters that a row stands on: what tests and intervals take for a sample."""
    return int(_independent(table).min())


def _independent(table: pd.DataFrame) -> np.ndarray:
    items = table["n_items"].to_numpy(dtype=float)
    if "n_clusters" not in table:
        return items
    clusters = table["n_clusters"].astype("Float64").to_numpy(dtype=float, na_value=np.nan)
    return np.where(np.isnan(clusters), items, clusters)
