"""Mean scores of heads over sequences, with intervals.

Only tables are read here; the scores are made in ``heads``.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from layerwise import stats
from layerwise.stats.effects import N_RESAMPLES
from layerwise.storage.parquet import conform

NATS = "induction"
SCORES = ("prefix_matching", "previous_token", "next_token", "duplicate_token", NATS)
_HEAD = ["layer", "site", "head"]
_SITES = pd.CategoricalDtype(["z", "cross_z"], ordered=True)


def summary_table(heads: pd.DataFrame, threshold: float, seed: int) -> pd.DataFrame:
    """``heads_summary.parquet``: means over sequences with bootstrap 95 % intervals."""
    found: pd.DataFrame | None = None
    # in the order of computation
    heads = heads.assign(site=heads["site"].astype(_SITES)).sort_values(_HEAD, kind="stable")
    for score in SCORES:
        wide = heads.pivot(index="sequence", columns=_HEAD, values=score)
        values = wide.to_numpy(dtype=float)
        drawn = stats.resample_indices(len(values), N_RESAMPLES, stats.generator(seed, "heads"))
        bounds = stats.percentile_bounds(stats.resampled_means(values, drawn), 0.95)
        if found is None:
            found = wide.columns.to_frame(index=False).assign(n_sequences=len(values))
        found[score] = values.mean(axis=0)
        known = np.isfinite(found[score]) & (len(values) > 1)
        for end, bound in zip(("low", "high"), bounds, strict=True):
            found[f"{score}_{end}"] = np.where(known, bound, np.nan)
    assert found is not None
    above = (found["prefix_matching_low"] > threshold).fillna(False)
    found["induction_head"] = above & (found["site"] == "z")
    return conform("heads_summary", found)
