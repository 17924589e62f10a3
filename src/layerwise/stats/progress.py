"""Progress over the layers, of methods that read a value at every edge between layers.

Which value that is, is the business of each analysis' ``analysis.py``; depths are named in
``emergence``.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Float

from layerwise import stats

from .clusters import Clusters, clusters_of
from .item_curves import ItemCurves, progress_by_item
from .layer_curves import Evidence, LeftOut, Sampling, Signal, partly

TASK = ["task", "capability", "protocol"]


def progress(
    method: str,
    group: pd.DataFrame,
    wide: pd.DataFrame,
    edges: np.ndarray,
    signal: Signal,
    sampling: Sampling,
    why: str,
    *,
    from_first: bool = True,
) -> Evidence | LeftOut:
    """Means over items by edge, as shares of the way to the last edge."""
    key = task_key(method, group)
    capability, protocol, _, task = key
    values = wide.to_numpy(dtype=float)
    if not signal.get((task, protocol), True):
        return LeftOut(*key, "no signal: the intact model is not better than blind")
    if not np.array_equal(wide.columns.to_numpy(dtype=int), edges):
        return LeftOut(*key, partly("read", wide.shape[1], len(edges)))
    if not np.isfinite(values).all():
        return LeftOut(*key, "some values are missing or infinite")
    clusters = clusters_of(group, wide.index)
    means = sampling.means(task, values, clusters)
    curve = _gained if from_first else _recovered
    whole = means[:, -1:] - (means[:, :1] if from_first else 0)
    if len(values) < 2 or not stats.percentile_bounds(whole[1:], 0.95).low[0] > 0:
        return LeftOut(*key, why if len(values) > 1 else "a single item")
    items = tuple(map(str, wide.index))
    by_item = _gained_by_item if from_first else progress_by_item
    return Evidence(
        method, capability, protocol, task, items, clusters, values, curve, by_item, curve(means)
    )  # fmt: skip


def _recovered(means: Float[np.ndarray, "draws edges"]) -> Float[np.ndarray, "draws edges"]:
    whole = means[:, -1:]
    return means / np.where(whole > 0, whole, np.nan)


def _gained(means: Float[np.ndarray, "draws edges"]) -> Float[np.ndarray, "draws edges"]:
    return _recovered(means - means[:, :1])


def _gained_by_item(values: Float[np.ndarray, "items edges"], clusters: Clusters) -> ItemCurves:
    return progress_by_item(values - values[:, :1], clusters)


def task_key(method: str, group: pd.DataFrame) -> tuple[str, str, str, str]:
    """Capability, protocol, method and task of rows that share them."""
    task, capability, protocol = (str(group[column].iloc[0]) for column in TASK)
    return capability, protocol, method, task


def with_own_signal(signal: Signal, key: tuple[str, str, str, str], found: bool) -> Signal:
    """The signal of tasks, where that of one is also asked of what a method measured itself."""
    _, protocol, _, task = key
    place = task, protocol
    return {**signal, place: signal.get(place, True) and found}


def while_the_encoder_runs(wide: pd.DataFrame, n_encoder: int) -> pd.DataFrame:
    """Items by layer with 0 at the encoder's, where there is no position to read yet."""
    zeros = pd.DataFrame(0.0, index=wide.index, columns=range(n_encoder))
    wide = wide.set_axis([int(column) for column in wide.columns], axis=1)
    return pd.concat([zeros, wide], axis=1).sort_index(axis=1)
