"""Effects and signal over several draws of few-shot examples: what the spread of draws adds.

All tests of items are made of each item's mean over the draws; here they are joined with tests that
know that the draws are a sample, too. Of both the more careful one counts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from .cells import Cell
from .clusters import clustered_interval
from .crossed import crossed_means
from .equivalence import MOST_NATS
from .inference import Interval
from .interest import Interest

_TAIL = 0.025


def intact_interval(cell: Cell) -> Interval:
    """95 % interval of the intact accuracy, over items and over draws of examples if several."""
    if not cell.of_examples:
        return clustered_interval(cell.intact, cell.clusters)
    each = [clustered_interval(one.intact, one.clusters) for one in cell.of_examples]
    means = crossed_means(_stacked(cell, lambda one: one.intact[:, None]), cell.clusters)
    mean, half = float(means.mean[0]), float(means.half_widths(_TAIL)[0])
    low, high = (float(np.mean([getattr(one, end) for one in each])) for end in ("low", "high"))
    return Interval(mean, max(0.0, min(low, mean - half)), min(1.0, max(high, mean + half)), 0.95)


def over_examples(
    table: pd.DataFrame, cell: Cell, chance: float, smallest: Interest
) -> dict[str, Any]:
    """Columns of effects that know that draws of examples are a sample."""
    clusters = cell.clusters
    change = crossed_means(_stacked(cell, lambda one: one.change), clusters)
    nats = crossed_means(_stacked(cell, lambda one: one.nats), clusters)
    clipped = crossed_means(
        _stacked(cell, lambda one: np.clip(one.nats, -MOST_NATS, MOST_NATS)), clusters
    )
    lost, above = (
        _stacked(cell, read)
        for read in (lambda one: one.change, lambda one: (one.intact - one.floor(chance))[:, None])
    )
    scale = above.mean()
    share = lost.mean(axis=(0, 1)) / scale if scale > 0 else np.full(lost.shape[2], np.nan)
    moved = crossed_means((lost - share * above) / (scale if scale > 0 else np.nan), clusters)
    margins = crossed_means(_stacked(cell, lambda one: one.margins), clusters)
    found: dict[str, Any] = {
        "p": np.maximum(table["p"], change.p_values()),
        "p_no_loss": np.maximum(table["p_no_loss"], 1 - change.upper_p_values(smallest.loss)),
        "p_no_loss_nats": np.maximum(
            table["p_no_loss_nats"], 1 - clipped.upper_p_values(smallest.nats)
        ),
        "crossed": [change._replace(**{name: getattr(change, name)[[i]] for name in _PARTS})
                    for i in range(len(table))],
    }  # fmt: skip
    for means, estimate, low, high in (
        (change, "acc_diff", "acc_diff_low", "acc_diff_high"),
        (moved, "share_lost", "share_low", "share_high"),
        (nats, "nats", "nats_low", "nats_high"),
        (margins, "margin", "margin_low", "margin_high"),
    ):
        half = means.half_widths(_TAIL)
        found[low] = np.minimum(table[low], table[estimate] - half)
        found[high] = np.maximum(table[high], table[estimate] + half)
    for end in ("acc_diff_low", "acc_diff_high"):
        found[end] = np.clip(found[end], -1.0, 1.0)
    return found


_PARTS = ("mean", "items", "draws", "shared")


def _stacked(
    cell: Cell, read: Callable[[Cell], Float[np.ndarray, "items columns"]]
) -> Float[np.ndarray, "draws items columns"]:
    return np.stack([read(one).astype(float) for one in cell.of_examples])
