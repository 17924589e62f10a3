"""The analyses that measure a model, in order, and which of them have curves over the layers.

``emergence`` joins their curves, so the list of all analyses, with itself, is in ``registry.py``.
"""

from __future__ import annotations

from collections.abc import Sequence

from layerwise.storage.base import Result

from .ablation.analysis import ANALYSIS as ABLATION
from .attribution.analysis import ANALYSIS as ATTRIBUTION
from .attribution_patching.analysis import ANALYSIS as ATTRIBUTION_PATCHING
from .contract import Analysis, Curves
from .distillation.analysis import ANALYSIS as DISTILLATION
from .early_exit.analysis import ANALYSIS as EARLY_EXIT
from .heads.analysis import ANALYSIS as HEADS
from .interactions.analysis import ANALYSIS as INTERACTIONS
from .logit_lens.analysis import ANALYSIS as LOGIT_LENS
from .patching.analysis import ANALYSIS as PATCHING
from .path_patching.analysis import ANALYSIS as PATH_PATCHING
from .pruning.analysis import ANALYSIS as PRUNING
from .removal.analysis import ANALYSIS as REMOVAL
from .similarity.analysis import ANALYSIS as SIMILARITY
from .transplant.analysis import ANALYSIS as TRANSPLANT
from .tuned_lens.analysis import ANALYSIS as TUNED_LENS

MEASUREMENTS: tuple[Analysis, ...] = (
    ABLATION, LOGIT_LENS, TUNED_LENS, PATCHING, ATTRIBUTION, HEADS, SIMILARITY, REMOVAL,
    ATTRIBUTION_PATCHING, PATH_PATCHING, PRUNING, INTERACTIONS, EARLY_EXIT, TRANSPLANT,
    DISTILLATION,
)  # fmt: skip
CURVES: dict[type[Result], Curves] = {
    each.result: each.curves for each in MEASUREMENTS if each.curves
}


def with_curves(results: Sequence[Result]) -> list[Result]:
    """Those of the results that have curves over the layers."""
    return [result for result in results if type(result) in CURVES]


def curves_in_words() -> str:
    """What makes curves over the layers, in words."""
    *most, last = (curves.words for curves in CURVES.values())
    return f"{', '.join(most)} or {last}"
