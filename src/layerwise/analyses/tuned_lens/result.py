"""The typed result of training a lens, and by how much it is nearer to the final distribution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from layerwise import stats
from layerwise.analyses.shared.lens_names import streams_read
from layerwise.errors import counted
from layerwise.presentation.section import drawn
from layerwise.stats.effects import ALPHA, N_RESAMPLES
from layerwise.storage.base import Result, computed_once, intervals
from layerwise.storage.parquet import frame
from layerwise.storage.provenance import Facts


@dataclass(frozen=True, repr=False, eq=False)
class TunedLensResult(Result):
    """How a tuned lens reads texts that it was not trained on, beside the untranslated lens.

    Attributes:
        tuned_lens: ``tuned_lens.parquet``.
        facts: what is needed to repeat the run.
    """

    tables: ClassVar[tuple[str, ...]] = ("tuned_lens",)
    title: ClassVar[str] = "Tuned lens: KL divergence from the final distribution"
    if_empty: ClassVar[str] = "No text was held out."

    tuned_lens: pd.DataFrame
    facts: Facts

    @computed_once
    def layers(self) -> pd.DataFrame:
        """``tuned_lens_layers.parquet``: both lenses by layer, paired over held-out texts."""
        return layers_table(self.tuned_lens, self.facts.seed)

    def derived(self) -> dict[str, pd.DataFrame]:
        """``tuned_lens_layers``."""
        return {"tuned_lens_layers": self.layers()}

    def plot(self) -> Any:
        """The divergence of both lenses against the layer."""
        from .figures import tuned_lens_curves

        return drawn(self, tuned_lens_curves, self.layers())

    def summary_rows(self) -> pd.DataFrame:
        """KL of both lenses by layer, with intervals."""
        return tuned_rows(self.layers(), self.facts.model.n_encoder_layers)

    def _heading(self) -> str:
        table = self.tuned_lens
        kinds = ", ".join(table["kind"].unique())
        texts = counted(len(set(table["text"])), "held-out text")
        return f"{self.facts.model.name}; {kinds}; {texts}"


def tuned_rows(layers: pd.DataFrame, n_encoder: int = 0) -> pd.DataFrame:
    """Divergence of both lenses from the final distribution by layer, and their difference."""
    named = ["lens"] * (layers["lens"].nunique() > 1)
    table = layers.reindex(columns=[*named, "layer"])
    if n_encoder:
        table["layer"] = streams_read(layers, n_encoder)
    for name, column in (("logit", "kl_logit"), ("tuned", "kl_tuned"), ("lower by", "difference")):
        in_words = intervals(layers, column, f"{column}_low", f"{column}_high")
        table[f"{name} (nats) [95 %]"] = in_words
    return table.assign(**{"p (Holm)": layers["p_holm"].map("{:.2g}".format)})


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
