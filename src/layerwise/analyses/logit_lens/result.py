"""The typed result of the lens, and the compact table that it shows in a notebook."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd

from layerwise.analyses.shared.left_out import left_out_sentences
from layerwise.analyses.shared.lens_names import streams_read
from layerwise.presentation import no_signal
from layerwise.presentation.section import drawn
from layerwise.stats.items.over_items import lens_summary
from layerwise.stats.signals.signal import signals_of
from layerwise.storage.base import Result, computed_once, number
from layerwise.storage.provenance import Facts

from .tables import (
    depth_comparisons,
    depth_means,
    guessing,
    lens_gate,
    prediction_depths,
)


@dataclass(frozen=True, repr=False, eq=False)
class LensResult(Result):
    """Rank and log-probability of tokens at each layer, read through the unembedding.

    Attributes:
        lens: ``lens.parquet``.
        facts: what is needed to repeat the run.
    """

    tables: ClassVar[tuple[str, ...]] = ("lens",)
    title: ClassVar[str] = "Logit lens: the answer, layer by layer"
    if_empty: ClassVar[str] = "Nothing was read."

    lens: pd.DataFrame
    facts: Facts

    @computed_once
    def summary(self) -> pd.DataFrame:
        """Averages over items per task, protocol and place, with bootstrap intervals.

        Returns:
            ``task``, ``capability``, ``protocol``, ``lens``, ``over``, ``site``, ``pos``,
            ``layer``, ``n_items``, ``median_rank``, ``logprob``, ``logprob_low``,
            ``logprob_high``, ``entropy``, ``kl`` (nats).
        """
        return lens_summary(self.lens, self.facts.seed)

    def signals(self) -> dict[tuple[str, str], bool]:
        """Whether right answers end on top more often than blind, by task and protocol."""
        return signals_of(lens_gate(self.lens, guessing(self.facts)))

    @computed_once
    def prediction_depths(self) -> pd.DataFrame:
        """``prediction_depth.parquet``: the layer from which each final answer stays on top."""
        model = self.facts.model
        return prediction_depths(self.lens, model.n_layers, model.n_encoder_layers)

    @computed_once
    def derived(self) -> dict[str, pd.DataFrame]:
        """Prediction depths, their means by capability, and tests between capabilities."""
        depths = self.prediction_depths()
        if not len(depths):
            return {}
        given = (depths, self.signals(), self.facts.model.n_layers)
        return {
            "prediction_depth": depths,
            "prediction_depth_means": depth_means(*given),
            "prediction_depth_comparisons": depth_comparisons(*given),
        }

    def plot(self) -> Any:
        """Curves of what the lens reads after each layer."""
        from .figures import lens_curves

        return drawn(self, lens_curves, self.lens, seed=self.facts.seed)

    def notes(self) -> list[str]:
        """Items that are left out, and how often the model is right where it has no signal."""
        silent = no_signal.gate_sentences(lens_gate(self.lens, guessing(self.facts)))
        return [*left_out_sentences(self.facts, "logit lens"), *silent]

    def summary_rows(self) -> pd.DataFrame:
        """Median rank and log-probability per protocol and layer, and lens and site if many."""
        lens, n_encoder = self.lens, self.facts.model.n_encoder_layers
        several = [name for name in ("lens", "site") if len(set(lens[name])) > 1]
        table = lens.groupby(["protocol", *several, "layer"], as_index=False).agg(
            rank=("rank", "median"), logprob=("logprob", "mean")
        )
        if n_encoder:
            named = table if "lens" in table else table.assign(lens=lens["lens"].iloc[0])
            table["layer"] = streams_read(named, n_encoder)
        names = {"rank": "median rank", "logprob": "log-probability (nats)"}
        return table.assign(logprob=table["logprob"].map(number)).rename(columns=names)
