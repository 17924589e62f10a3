"""Similarity averaged over items, with intervals, and the blocks of layers that turn least.

Only tables are read here; how they are shown is the business of ``report/`` and of the result.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from layerwise import stats
from layerwise.stats.clusters import clusters_of
from layerwise.storage.parquet import frame

_TASK = ["task", "capability", "protocol"]


def angular_map(group: pd.DataFrame) -> Float[np.ndarray, "item cell"]:
    """Angular distances of one task, by item (in the order of their ids) and cell of the map."""
    ordered = group.sort_values(["item", "layer"])
    flat = [value for listed in ordered["angular"] for value in listed]
    return np.array(flat, dtype=float).reshape(len(set(group["item"])), -1)


def influences(group: pd.DataFrame) -> Float[np.ndarray, "item layer"]:
    """Block influence of one task, by item (in the order of their ids) and layer."""
    ordered = group.sort_values(["item", "layer"])
    return ordered["influence"].to_numpy(dtype=float).reshape(len(set(group["item"])), -1)


def cells_of(group: pd.DataFrame) -> list[tuple[int, int]]:
    """Layer and number of layers of the map's cells, in the order of ``angular_map``."""
    of_one = group.loc[group["item"] == group["item"].iloc[0]].sort_values("layer")
    listed = zip(of_one["layer"], of_one["angular"], strict=True)
    return [(int(at), n) for at, values in listed for n in range(1, len(values) + 1)]


def angular_table(similarity: pd.DataFrame, seed: int) -> pd.DataFrame:
    """``angular.parquet``: mean distance per task, layer and number of layers."""
    rows: list[dict[str, Any]] = []
    for group in _groups(similarity):
        told = _told(group, angular_map(group), "distance", seed)
        cells = cells_of(group)
        least: dict[int, float] = {}
        for (_, n), one in zip(cells, told, strict=True):
            least[n] = min(least.get(n, np.inf), one["distance"])
        rows += [
            {**one, "layer": at, "n_layers": n, "least": one["distance"] == least[n]}
            for (at, n), one in zip(cells, told, strict=True)
        ]
    return frame("angular", rows)


def influence_table(similarity: pd.DataFrame, seed: int) -> pd.DataFrame:
    """``influence.parquet``: mean block influence per task and layer."""
    rows = [
        {**one, "layer": layer}
        for group in _groups(similarity)
        for layer, one in enumerate(_told(group, influences(group), "influence", seed))
    ]
    return frame("influence", rows)


def _groups(similarity: pd.DataFrame) -> list[pd.DataFrame]:
    return [group for _, group in similarity.groupby(_TASK, sort=True)]


def _told(
    group: pd.DataFrame, values: Float[np.ndarray, "item column"], name: str, seed: int
) -> list[dict[str, Any]]:
    """Means over items with their bootstrap intervals, a row per column."""
    task, clusters = str(group["task"].iloc[0]), clusters_of(group, sorted(set(group["item"])))
    indices = stats.resample_indices(clusters.n, 2000, stats.generator(seed, task))
    low, high = stats.percentile_bounds(clusters.resampled_means(values, indices), 0.95)
    said = clusters.n > 1
    key = {column: group[column].iloc[0] for column in _TASK} | {"n_items": len(values)}
    return [
        {**key, name: mean, "low": lo if said else None, "high": hi if said else None}
        for mean, lo, hi in zip(values.mean(axis=0).tolist(), low, high, strict=True)
    ]
