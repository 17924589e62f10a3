"""Depth summaries of curves over layers: where half is reached, and the centre of mass."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from layerwise.stats.inference import percentile_bounds


def cumulative_share(
    importance: Float[np.ndarray, "draws layers"],
) -> Float[np.ndarray, "draws edges"]:
    """Cumulative share of the importance, from 0 before the first layer to 1 after the last."""
    # A draw without any importance, or with an undefined one, is nan throughout.
    total = importance.sum(axis=1, keepdims=True)
    shares = np.cumsum(importance, axis=1) / np.where(total > 0, total, np.nan)
    return np.concatenate([np.where(np.isnan(shares[:, :1]), np.nan, 0.0), shares], axis=1)


def half_depth(curve: Float[np.ndarray, "draws edges"]) -> Float[np.ndarray, " draws"]:
    """The layer in which a curve passes 1/2 for good, with linear interpolation."""
    # Column ``k`` of the curve is its value before layer ``k`` (the last column: after the last
    # layer), and what a layer adds is spread evenly over ``[layer - 1/2, layer + 1/2]``. So a curve
    # that jumps from 0 to 1 in layer 5 gives exactly 5, and equal steps give the middle.
    n_edges = curve.shape[1]
    below = np.nan_to_num(curve, nan=np.inf) < 0.5 - 1e-12
    last = n_edges - 1 - np.argmax(below[:, ::-1], axis=1)
    draws = np.arange(len(curve))
    before, after = (curve[draws, np.minimum(last + step, n_edges - 1)] for step in (0, 1))
    rise = np.where(after > before, after - before, np.nan)
    inside = np.clip(last - 0.5 + (0.5 - before) / rise, 0.0, max(n_edges - 2, 0))
    depth = np.where(below.any(axis=1), inside, 0.0)
    return np.where(np.isnan(curve).any(axis=1), np.nan, depth)


def centre_of_mass(curve: Float[np.ndarray, "draws edges"]) -> Float[np.ndarray, " draws"]:
    """Mean layer, weighted by what each layer adds to the curve; what it takes off counts, too."""
    added = np.diff(curve, axis=1)
    total = added.sum(axis=1)
    centre = added @ np.arange(added.shape[1]) / np.where(total > 0, total, np.nan)
    return np.clip(centre, 0.0, max(added.shape[1] - 1, 0))


def relative_depth_difference(
    first: Float[np.ndarray, " draws"], second: Float[np.ndarray, " draws"]
) -> Float[np.ndarray, " draws"]:
    """Second minus first relative depth; what differs by rounding alone is 0."""
    differences = second - first
    return np.where(np.abs(differences) < 1e-6, 0.0, differences)


def bounds(
    draws: Float[np.ndarray, " draws"], n_items: int
) -> tuple[Float[np.ndarray, " kept"], float, float]:
    """The resamples that count (all but row 0 and nan), and their 95 % percentile bounds."""
    # No bounds if more than half of the resamples are nan, or if they are of one item.
    kept = draws[1:][~np.isnan(draws[1:])]
    if n_items < 2 or 2 * len(kept) < len(draws) - 1:
        return kept, np.nan, np.nan
    low, high = percentile_bounds(kept[:, None], 0.95)
    return kept, float(low[0]), float(high[0])
