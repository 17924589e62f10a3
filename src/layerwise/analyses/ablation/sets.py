"""What several changes made at once are called: blocks and sets of layers or heads.

Their interventions' ids have a plus sign; nothing is drawn or concluded here.
"""

from __future__ import annotations

import re

import pandas as pd

from layerwise.presentation.naming import name_layer
from layerwise.presentation.wording import HEAD_WORDS, layer_ranges, ranges


def is_set(effects: pd.DataFrame) -> pd.Series:
    """Which rows are of several changes made at once: no map of single layers has a place."""
    return effects["intervention"].str.contains("+", regex=False)


def set_name(intervention: str) -> str:
    """``"2–4"``, or ``"2: 0–3; 5: 1"``: the layers, or by layer the heads, that an id names."""
    heads: dict[str, list[int]] = {}
    for layer, head in re.findall(r"layer=(\d+),(?:head|group)=(\d+)", intervention):
        heads.setdefault(name_layer(int(layer)), []).append(int(head))
    if heads:
        return "; ".join(f"{layer}: {ranges(those)}" for layer, those in heads.items())
    together = re.search(r":layers=([\d+]+)$", intervention)
    named = together[1].split("+") if together else re.findall(r"layer=(\d+)", intervention)
    return layer_ranges(named)


def sets_noun(site: str) -> str:
    """What a set at a site has in it, as a plural."""
    return f"{HEAD_WORDS.get(site, 'layer')}s"
