"""Averages over items at each layer with their intervals, for curves.

Effects of interventions have their own table and are not made here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.stats import binom

from layerwise.stats import generator, percentile_bounds, resample_indices, resampled_means

RESAMPLES = 2000


@dataclass(frozen=True)
class Curve:
    """A statistic by layer with its 95 % interval over items."""

    layers: Float[np.ndarray, " layers"]
    middle: Float[np.ndarray, " layers"]
    low: Float[np.ndarray, " layers"]
    high: Float[np.ndarray, " layers"]


def by_item(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """One column of a table as items (rows) by layers (columns)."""
    return table.pivot_table(index="item", columns="layer", values=column, aggfunc="mean")


def mean_curve(table: pd.DataFrame, column: str, seed: int) -> Curve:
    """The mean over items at each layer, with a bootstrap interval over items."""
    wide = by_item(table, column)
    values = wide.to_numpy(dtype=float)
    drawn = resample_indices(len(values), RESAMPLES, generator(seed, str(table["task"].iloc[0])))
    bounds = percentile_bounds(resampled_means(values, drawn), 0.95)
    return Curve(wide.columns.to_numpy(dtype=float), values.mean(axis=0), *bounds)


def median_curve(table: pd.DataFrame) -> Curve:
    """The median rank at each layer, counted from 1, with its order-statistic interval.

    The interval runs between the order statistics that a binomial with one half puts at
    95 % or more (Conover 1999, Practical Nonparametric Statistics, section 3.2); with fewer
    than six items none does, and it runs from the least to the greatest.
    """
    wide = by_item(table, "rank")
    ordered = np.sort(wide.to_numpy(dtype=float), axis=0) + 1
    n = len(ordered)
    lower = int(np.clip(binom.ppf(0.025, n, 0.5) - 1, 0, n - 1))
    layers = wide.columns.to_numpy(dtype=float)
    return Curve(layers, np.median(ordered, axis=0), ordered[lower], ordered[n - 1 - lower])
