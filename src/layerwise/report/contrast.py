"""Where two ways of scoring tell different stories about a layer, by the rule used everywhere.

Figures and sentences both ask here, so that they cannot disagree.
"""

from __future__ import annotations

import pandas as pd

from layerwise.report.rows import layers_of, numbers, rows


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
    return [layer for layer in layers_of(with_signal) if _apart(rows(with_signal, layer=layer))]


def _apart(layer: pd.DataFrame) -> bool:
    surest = numbers(rows(layer, significant=True), "share_low")
    return bool((surest[:, None] > numbers(layer, "share_high")[None, :]).any())
