"""What several changes made at once are called: blocks and sets of layers or heads.

Their interventions' ids have a plus sign; nothing is drawn or concluded here.
"""

from __future__ import annotations

import re

import pandas as pd

from layerwise.report.naming import name_layer
from layerwise.report.wording import HEAD_WORDS, layer_ranges


def is_set(effects: pd.DataFrame) -> pd.Series:
    """Which rows are of several changes made at once: no map of single layers has a place."""
    return effects["intervention"].str.contains("+", regex=False)


def set_name(intervention: str) -> str:
    """``"2–4"`` or ``"2.0, 2.1"``: the layers, or the heads, that an id names."""
    heads = re.findall(r"layer=(\d+),(?:head|group)=(\d+)", intervention)
    if heads:
        return ", ".join(f"{name_layer(int(layer))}.{head}" for layer, head in heads)
    together = re.search(r":layers=([\d+]+)$", intervention)
    named = together[1].split("+") if together else re.findall(r"layer=(\d+)", intervention)
    return layer_ranges(named)


def sets_noun(site: str) -> str:
    """What a set at a site has in it, as a plural."""
    return f"{HEAD_WORDS.get(site, 'layer')}s"
