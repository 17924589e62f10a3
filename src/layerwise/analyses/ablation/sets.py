"""What several changes made at once are called: blocks and sets of layers or heads.

Nothing is drawn or concluded here.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from layerwise.presentation.naming import name_layer
from layerwise.presentation.wording import HEAD_WORDS, layer_ranges, ranges


def is_set(effects: pd.DataFrame) -> pd.Series:
    """Which rows are of several changes made at once: no map of single layers has a place."""
    return effects["layers"].str.len() > 1


def set_name(layers: Sequence[int], heads: Sequence[int | None] | None = None) -> str:
    """``"2–4"``, or ``"2: 0–3; 5: 1"``: the layers, or by layer the heads."""
    if heads is None:
        return layer_ranges(layers)
    of_layer: dict[str, list[int]] = {}
    for layer, head in zip(layers, heads, strict=True):
        if head is not None:
            of_layer.setdefault(name_layer(layer), []).append(head)
    return "; ".join(f"{layer}: {ranges(those)}" for layer, those in of_layer.items())


def sets_noun(site: str) -> str:
    """What a set at a site has in it, as a plural."""
    return f"{HEAD_WORDS.get(site, 'layer')}s"
