"""Mean scores of heads over sequences, with intervals.

Only tables are read here; the scores are made in ``heads``.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from layerwise import stats
from layerwise._effects import N_RESAMPLES
from layerwise._tables import conform

SCORES = ("prefix_matching", "previous_token", "duplicate_token", "induction")


def summary_table(heads: pd.DataFrame, threshold: float, seed: int) -> pd.DataFrame:
    """``heads_summary.parquet``: means over sequences with bootstrap 95 % intervals.

    Args:
        heads: ``heads.parquet``.
        threshold: an induction head's prefix matching is above it with its whole interval.
        seed: seed of the bootstrap.
    """
    found: pd.DataFrame | None = None
    for score in SCORES:
        wide = heads.pivot(index="sequence", columns=["layer", "head"], values=score)
        wide = wide.sort_index(axis=1)
        values = wide.to_numpy(dtype=float)
        drawn = stats.resample_indices(len(values), N_RESAMPLES, stats.generator(seed, "heads"))
        bounds = stats.percentile_bounds(stats.resampled_means(values, drawn), 0.95)
        if found is None:
            found = wide.columns.to_frame(index=False).assign(n_sequences=len(values))
        found[score] = values.mean(axis=0)
        for end, bound in zip(("low", "high"), bounds, strict=True):
            found[f"{score}_{end}"] = bound if len(values) > 1 else np.nan
    assert found is not None
    found["induction_head"] = (found["prefix_matching_low"] > threshold).fillna(False)
    return conform("heads_summary", found)
