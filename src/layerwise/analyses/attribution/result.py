"""The typed result of direct logit attribution, and its compact table for notebooks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd

from layerwise.analyses.shared.left_out import left_out_sentences
from layerwise.presentation import no_signal
from layerwise.presentation.columns import (
    Column,
    Row,
    decided,
    estimated,
    in_short,
    named,
    p_column,
    plain,
    without,
)
from layerwise.presentation.naming import name_layer
from layerwise.presentation.section import drawn
from layerwise.presentation.wording import HEAD_WORDS, SUBLAYER_WORDS
from layerwise.storage.base import Result, computed_once
from layerwise.storage.provenance import Facts

from .tables import HEADS, SUBLAYERS, attribution_gate, summary_table

ANALYSIS = "direct logit attribution"


@dataclass(frozen=True, repr=False, eq=False)
class AttributionResult(Result):
    """Direct contribution of each layer, sublayer and head to the answer's logit.

    Attributes:
        attribution: ``attribution.parquet``.
        facts: what is needed to repeat the run.
    """

    tables: ClassVar[tuple[str, ...]] = ("attribution",)
    title: ClassVar[str] = "Direct logit attribution: what adds most to the answer"
    if_empty: ClassVar[str] = (
        "No task has signal: the answer's first token is not above those of the other choices "
        "more often than blind."
    )

    attribution: pd.DataFrame
    facts: Facts

    @computed_once
    def summary(self) -> pd.DataFrame:
        """``attribution_summary.parquet``: means over items with intervals and tests."""
        return summary_table(self.attribution, self.facts.seed)

    def derived(self) -> dict[str, pd.DataFrame]:
        """``attribution_summary``."""
        return {"attribution_summary": self.summary()}

    def plot(self) -> Any:
        """What each head adds directly, in tasks with signal."""
        from .figures import attribution_heads

        summary = self.summary()
        return drawn(self, attribution_heads, summary.loc[summary["signal"]])

    def notes(self) -> list[str]:
        """Items that are left out, and how often the model is right where it has no signal."""
        silent = no_signal.gate_sentences(attribution_gate(self.attribution))
        return [*left_out_sentences(self.facts, ANALYSIS), *silent]

    def summary_rows(self) -> pd.DataFrame:
        """The parts that add most to the logit difference, of tasks with signal."""
        return in_short(self, without(CONTRIBUTIONS, "n"), largest(self.summary()))


def largest(summary: pd.DataFrame, n_top: int = 5) -> pd.DataFrame:
    """The sublayers and heads that add most to an answer, of tasks that have signal."""
    parts = summary["component"].isin([*SUBLAYERS, *HEADS])
    heard = summary.loc[summary["signal"] & parts & (summary["metric"] == "logit_diff")]
    ranked = heard.sort_values(by="value", ascending=False, kind="stable")
    top = ranked.groupby(["protocol", "task"], sort=True).head(n_top)
    return top.sort_values(["protocol", "task"], kind="stable")


def _part(row: Row) -> str:
    place = name_layer(row["layer"]) + (f".{row['head']}" if row["component"] in HEADS else "")
    return f"{(SUBLAYER_WORDS | HEAD_WORDS)[row['component']]} {place}"


CONTRIBUTIONS = (
    *plain("task", "protocol"),
    Column("part", _part),
    named("n", "n_items"),
    estimated("adds (nats)", "value", "", 1, 2),
    p_column("p (corrected)", "p_adjusted"),
    decided("significant", "significant"),
)
