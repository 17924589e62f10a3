"""The typed result of head scores, and the compact table that it shows in a notebook."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from layerwise import stats
from layerwise.errors import count_noun
from layerwise.presentation.columns import Column, Row, estimate_column, in_short, yes_no_column
from layerwise.presentation.naming import name_layer
from layerwise.presentation.rows import numbers
from layerwise.presentation.section import draw_table
from layerwise.stats.families.estimate import mean_columns
from layerwise.stats.items.clusters import Clusters
from layerwise.storage.base import Result, cache_tables
from layerwise.storage.parquet import conform
from layerwise.storage.provenance import Facts

# Heads in the short view.
_SHOWN = 15
_ATTENTION = {"z": "", "cross_z": ", cross-attention"}
NATS = "induction"
SCORES = ("prefix_matching", "previous_token", "next_token", "duplicate_token", NATS)
_HEAD = ["layer", "site", "head"]
_SITES = pd.CategoricalDtype(["z", "cross_z"], ordered=True)


@dataclass(frozen=True, repr=False, eq=False)
class HeadsResult(Result):
    """Attention scores of each head on repeated random tokens (induction heads).

    Attributes:
        heads: ``heads.parquet``.
        facts: what is needed to repeat the run.
    """

    tables: ClassVar[tuple[str, ...]] = ("heads",)
    derived_by: ClassVar[dict[str, str]] = {"heads_summary": "summary"}
    title: ClassVar[str] = "Heads on repeated random tokens: highest prefix matching"
    if_empty: ClassVar[str] = "No head was scored."

    heads: pd.DataFrame
    facts: Facts

    @property
    def threshold(self) -> float:
        """Above this, an induction head's prefix-matching score lies with its whole interval."""
        return float(self.facts.settings["threshold"])  # type: ignore[arg-type]

    @cache_tables
    def summary(self) -> pd.DataFrame:
        """``heads_summary``: mean scores over sequences, with intervals."""
        return summary_table(self.heads, self.threshold, self.facts.seed)

    def induction_heads(self) -> list[tuple[int, int]]:
        """The layer and head of every induction head."""
        summary = self.summary()
        chosen = summary.loc[summary["induction_head"]]
        return list(zip(map(int, chosen["layer"]), map(int, chosen["head"]), strict=True))

    def _figure(self) -> Any:
        """Attention scores, layers by heads."""
        from .figures import head_score_maps

        return draw_table(self, head_score_maps, self.summary())

    def summary_rows(self) -> pd.DataFrame:
        """The heads with the highest prefix-matching scores."""
        top = self.summary().sort_values("prefix_matching", ascending=False, kind="stable")
        return in_short(self, head_columns(top.head(_SHOWN)), top.head(_SHOWN))

    def _heading_line(self) -> str:
        count, length = (int(str(self.facts.settings[name])) for name in ("sequences", "length"))
        sequences, tokens = count_noun(count, "sequence"), count_noun(length, "random token")
        return f"{self.facts.model.name}; {sequences} of {tokens}, repeated"


def _head(row: Row) -> str:
    return f"{name_layer(row['layer'])}.{row['head']}{_ATTENTION[row['site']]}"


def head_columns(heads: pd.DataFrame) -> tuple[Column, ...]:
    """The columns of heads, with the scores that any of them has."""
    names = [name for name in SCORES if np.isfinite(numbers(heads, name)).any()]
    units = {NATS: " (nats)"}
    scores = (
        estimate_column(name.replace("_", " ") + units.get(name, ""), name, f"{name}_", 1, 2)
        for name in names
    )
    return (Column("head", _head), *scores, yes_no_column("induction head", "induction_head"))


def summary_table(heads: pd.DataFrame, threshold: float, seed: int) -> pd.DataFrame:
    """``heads_summary``: means over sequences with bootstrap 95 % intervals."""
    # in the order of computation
    heads = heads.assign(site=heads["site"].astype(_SITES)).sort_values(_HEAD, kind="stable")
    wide = {score: heads.pivot(index="sequence", columns=_HEAD, values=score) for score in SCORES}
    first = wide[SCORES[0]]
    summary = first.columns.to_frame(index=False).assign(n_sequences=len(first))
    for score, values in wide.items():
        apart, random = Clusters.singletons(len(first)), stats.generator(seed, "heads")
        columns = mean_columns(score, f"{score}_", values.to_numpy(dtype=float), apart, random)
        summary = summary.assign(**columns)
    above = (summary["prefix_matching_low"] > threshold).fillna(False)
    summary["induction_head"] = above & (summary["site"] == "z")
    return conform("heads_summary", summary)
