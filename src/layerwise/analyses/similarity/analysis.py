"""The similarity of layers, as everything across analyses sees it."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from layerwise.analyses.ablation.result import AblationResult
from layerwise.analyses.contract import Analysis, saved_tables
from layerwise.stats.cells import has_several_examples
from layerwise.storage.base import Result

from .findings import similarity_predicts
from .report import sections
from .result import SimilarityResult


def _tables(result: SimilarityResult, others: Sequence[Result]) -> dict[str, pd.DataFrame]:
    """Also how well similarity predicts what skipping costs, where layers were changed too."""
    found = saved_tables(result, others)
    ablations = [
        other
        for other in others
        if isinstance(other, AblationResult) and not has_several_examples(other.records)
    ]
    return found | ({"prediction": result.predicts(ablations[0])} if ablations else {})


ANALYSIS = Analysis("similarity", SimilarityResult, sections, similarity_predicts, tables=_tables)
