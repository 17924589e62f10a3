"""What follows from the test of a tuned lens: by how much it is nearer to the final distribution.

Only tables are read here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from layerwise import stats
from layerwise.stats.effects import ALPHA, N_RESAMPLES
from layerwise.storage.parquet import frame


def layers_table(table: pd.DataFrame, seed: int) -> pd.DataFrame:
    """``tuned_lens_layers.parquet``: KL of both lenses by layer, paired over held-out texts.

    A layer has one translator, and so one lens: in the encoder of an encoder-decoder the tuned
    decoder lens, whose other is the decoder lens; everywhere else the tuned lens.

    Intervals are percentile bootstrap intervals over texts; the test is Wilcoxon's signed-rank
    test (1945, Biometrics 1), two-sided, with Holm's correction over the layers.
    """
    wide = {
        name: table.pivot(index="text", columns="layer", values=name).to_numpy(dtype=float)
        for name in ("kl_logit", "kl_tuned")
    }
    if not len(table):
        return frame("tuned_lens_layers", [])
    logit, tuned = wide["kl_logit"], wide["kl_tuned"]
    n_layers = logit.shape[1]
    drawn = stats.resample_indices(len(logit), N_RESAMPLES, stats.generator(seed, "held-out texts"))
    means = stats.resampled_means(np.column_stack([logit, tuned, logit - tuned]), drawn)
    low, high = (b.reshape(3, n_layers) for b in stats.percentile_bounds(means, 0.95))
    p = np.array([_wilcoxon(logit[:, k] - tuned[:, k]) for k in range(n_layers)])
    rows: list[dict[str, Any]] = []
    name_of = dict(zip(table["layer"], table["lens"], strict=True))
    for k, layer in enumerate(sorted(name_of)):
        row: dict[str, Any] = {"kind": str(table["kind"].iloc[0]), "layer": int(layer)}
        row["lens"] = str(name_of[layer])
        row |= {"n_texts": len(logit), "p": float(p[k]), "p_holm": float(stats.holm(p)[k])}
        estimates = {"kl_logit": logit, "kl_tuned": tuned, "difference": logit - tuned}
        for i, (name, values) in enumerate(estimates.items()):
            row[name] = float(values[:, k].mean())
            row |= {f"{name}_low": float(low[i, k]), f"{name}_high": float(high[i, k])}
        row["p_run"] = row["p_holm"]  # the layers are all that is tested of the run's lens
        row["lower"] = bool(row["p_holm"] < ALPHA and row["difference_low"] > 0)
        rows.append(row)
    return frame("tuned_lens_layers", rows)


def _wilcoxon(differences: np.ndarray) -> float:
    from scipy.stats import wilcoxon

    tested: Any = wilcoxon(differences) if differences.any() else None
    return 1.0 if tested is None else float(tested.pvalue)
