"""The analyses that measure a model, in order, and which of them have curves over the layers.

Those of this package are named in ``ground/analysis_folders.py``; installed plugins come after
them. ``emergence`` joins their curves, so the list of all analyses, with itself, is in
``registry.py``.
"""

from __future__ import annotations

from collections.abc import Sequence

from layerwise.ground.analysis_folders import MEASURING
from layerwise.storage.base import Result

from .contract import Analysis, Curves
from .plugins import own_analyses, plugin_analyses

_OWN = own_analyses(MEASURING)
MEASUREMENTS: tuple[Analysis, ...] = (*_OWN, *plugin_analyses(_OWN))
CURVES: dict[type[Result], Curves] = {
    each.result: each.curves for each in MEASUREMENTS if each.curves
}


def with_curves(results: Sequence[Result]) -> list[Result]:
    """Those of the results that have curves over the layers."""
    return [result for result in results if type(result) in CURVES]


def curves_in_words() -> str:
    """Measurements that make curves over the layers, in words."""
    *most, last = (curves.words for curves in CURVES.values())
    return f"{', '.join(most)} or {last}"
