"""The typed result of training a lens, and the compact table that it shows in a notebook."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd

from layerwise.analyses.logit_lens.names import streams_read
from layerwise.errors import counted
from layerwise.presentation.drawing import drawn
from layerwise.storage.base import Result, computed_once
from layerwise.storage.notebook import intervals
from layerwise.storage.provenance import Facts

from .tables import layers_table


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
    found = layers.reindex(columns=[*named, "layer"])
    if n_encoder:
        found["layer"] = streams_read(layers, n_encoder)
    for name, column in (("logit", "kl_logit"), ("tuned", "kl_tuned"), ("lower by", "difference")):
        told = intervals(layers, column, f"{column}_low", f"{column}_high")
        found[f"{name} (nats) [95 %]"] = told
    return found.assign(**{"p (Holm)": layers["p_holm"].map("{:.2g}".format)})
