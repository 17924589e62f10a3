"""The typed result of training a lens, and by how much it is nearer to the final distribution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from layerwise import stats
from layerwise.analyses.shared.lens_names import stream_names
from layerwise.errors import count_noun
from layerwise.presentation.section import draw_table
from layerwise.stats.effects import ALPHA, N_RESAMPLES
from layerwise.stats.families.multiplicity import correct_family
from layerwise.storage.base import Result, cache_tables, intervals
from layerwise.storage.parquet import conform, frame
from layerwise.storage.provenance import Facts


@dataclass(frozen=True, repr=False, eq=False)
class TunedLensResult(Result):
    """Reading of held-out texts by a tuned lens, beside the untranslated lens.

    Attributes:
        tuned_lens: ``tuned_lens.parquet``.
        facts: what is needed to repeat the run.
    """

    tables: ClassVar[tuple[str, ...]] = ("tuned_lens",)
    title: ClassVar[str] = "Tuned lens: KL divergence from the final distribution"
    if_empty: ClassVar[str] = "No text was held out."

    tuned_lens: pd.DataFrame
    facts: Facts

    @cache_tables
    def layers(self) -> pd.DataFrame:
        """``tuned_lens_layers``: both lenses by layer, paired over held-out texts."""
        return layers_table(self.tuned_lens, self.facts.seed)

    def derived_tables(self) -> dict[str, pd.DataFrame]:
        """``tuned_lens_layers``."""
        return {"tuned_lens_layers": self.layers()}

    def _figure(self) -> Any:
        """The divergence of both lenses against the layer."""
        from .figures import tuned_lens_curves

        return draw_table(self, tuned_lens_curves, self.layers())

    def summary_rows(self) -> pd.DataFrame:
        """KL of both lenses by layer, with intervals."""
        layers, n_encoder = self.layers(), self.facts.model.n_encoder_layers
        named = ["lens"] * (layers["lens"].nunique() > 1)
        table = layers.reindex(columns=[*named, "layer"])
        if n_encoder:
            table["layer"] = stream_names(layers, n_encoder)
        for name, column in (("logit", "kl_logit"), ("tuned", "kl_tuned"),
                             ("lower by", "difference")):  # fmt: skip
            in_words = intervals(layers, column, f"{column}_low", f"{column}_high")
            table[f"{name} (nats) [95 %]"] = in_words
        return table.assign(**{"p (Holm)": layers["p_holm"].map("{:.2g}".format)})

    def _heading_line(self) -> str:
        table = self.tuned_lens
        kinds = ", ".join(table["kind"].unique())
        texts = count_noun(len(set(table["text"])), "held-out text")
        return f"{self.facts.model.name}; {kinds}; {texts}"


def layers_table(table: pd.DataFrame, seed: int) -> pd.DataFrame:
    """``tuned_lens_layers``: KL of both lenses by layer, paired over held-out texts.

    A layer has one translator, and so one lens: in the encoder of an encoder-decoder the tuned
    decoder lens, whose other is the decoder lens; everywhere else the tuned lens.

    Intervals are percentile bootstrap intervals over texts; the test is Wilcoxon's signed-rank
    test (1945, Biometrics 1), two-sided, with Holm's correction over the layers.
    """
    from scipy.stats import wilcoxon

    if table.empty:
        return frame("tuned_lens_layers", [])
    logit, tuned = (
        table.pivot(index="text", columns="layer", values=name).to_numpy(dtype=float)
        for name in ("kl_logit", "kl_tuned")
    )
    values = {"kl_logit": logit, "kl_tuned": tuned, "difference": logit - tuned}
    drawn = stats.resample_indices(len(logit), N_RESAMPLES, stats.generator(seed, "held-out texts"))
    means = stats.resampled_means(np.column_stack(list(values.values())), drawn)
    low, high = (b.reshape(3, -1) for b in stats.percentile_bounds(means, 0.95))
    signed_ranks: Any = wilcoxon
    tested = [signed_ranks(one).pvalue if one.any() else 1.0 for one in values["difference"].T]
    p_holm = correct_family(np.array(tested, dtype=float))
    layers = table.drop_duplicates("layer").sort_values("layer", ignore_index=True)
    layers = layers.assign(n_texts=len(logit), p=tested, p_holm=p_holm)
    for i, (name, by_text) in enumerate(values.items()):
        layers[name] = [float(column.mean()) for column in by_text.T]
        layers[f"{name}_low"], layers[f"{name}_high"] = low[i], high[i]
    # the layers are all that is tested of the run's lens
    lower = (p_holm < ALPHA) & (low[2] > 0)
    return conform("tuned_lens_layers", layers.assign(p_run=p_holm, lower=lower))
