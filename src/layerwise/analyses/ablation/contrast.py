"""Where two ways of scoring tell different stories about a layer, by the rule used everywhere.

Figures and sentences both ask here, so that they cannot disagree.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from layerwise.presentation.rows import numbers, rows


def layers_apart(effects: pd.DataFrame) -> list[int]:
    """Layers that matter under one protocol and whose loss differs from that under another.

    A layer counts if the interval of the share lost under one protocol lies wholly above
    that under another, and the effect of the first is significant after Holm's correction.
    The second condition keeps out gaps between two intervals that are both near nothing.

    Args:
        effects: rows of one task, kind and site from ``effects.parquet``.

    Returns:
        The layers, in order. Protocols without signal are left out, and so are intervals
        without bounds.
    """
    with_signal = rows(effects, signal=True)
    layers = with_signal["layer"].to_numpy(dtype=int)
    low, high = numbers(with_signal, "share_low"), numbers(with_signal, "share_high")
    sure = np.asarray(with_signal["significant"].isin([True]), dtype=bool)
    above = (layers[:, None] == layers) & (low[:, None] > high) & sure[:, None]
    return sorted({int(layer) for layer in layers[above.any(axis=1)]})
