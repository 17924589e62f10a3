"""The typed result of direct logit attribution, and its compact table for notebooks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from layerwise import stats
from layerwise.analyses.shared.left_out import exclusion_sentences
from layerwise.presentation import no_signal
from layerwise.presentation.columns import (
    Column,
    Row,
    drop_columns,
    estimate_column,
    in_short,
    p_column,
    plain,
    text_column,
    yes_no_column,
)
from layerwise.presentation.naming import name_layer
from layerwise.presentation.section import draw_table
from layerwise.presentation.wording import HEAD_WORDS, SUBLAYER_WORDS
from layerwise.stats.families.estimate import estimate, mean_columns, student
from layerwise.stats.items.clusters import clusters_from_table, mean_errors, mean_p_values
from layerwise.stats.signals.signal import MethodAnswers, gate_table, signals_from_table
from layerwise.storage.base import Result, cache_tables
from layerwise.storage.parquet import conform, frame
from layerwise.storage.provenance import Facts

_PIECE = ["task", "capability", "protocol", "metric"]
_PART = ["component", "layer", "head"]
# What a layer adds to the stream.
SUBLAYERS = ("attn_out", "cross_attn_out", "mlp_out")
HEADS = ("z", "cross_z")
# What can be told from nothing by a test; the rest is only shown with its interval.
TESTED = ("layer", *SUBLAYERS, *HEADS)
# What float32 sums of a run may differ by, with room; less is nothing.
ROUNDING = 1e-6


def summary_table(attribution: pd.DataFrame, seed: int) -> pd.DataFrame:
    """``attribution_summary``: the mean of every part, per task, protocol and metric."""
    # t-tests of a mean of 0, corrected by component: heads by Benjamini-Hochberg, others by Holm.
    signal = signals_from_table(attribution_gate(attribution))
    pieces: Any = attribution.groupby(_PIECE, sort=False)
    tables = [
        _piece(group, seed, signal[str(task), str(protocol)])
        for (task, _, protocol, _), group in pieces
    ]
    if not tables:
        return frame("attribution_summary", [])
    whole = pd.concat(tables, ignore_index=True)
    heads = whole["component"].isin(HEADS).to_numpy(dtype=bool)
    table = estimate(whole, student("value"), [*_PIECE, "component"], by_rate=heads)
    return conform("attribution_summary", table.rename(columns={"p_table": "p_adjusted"}))


def attribution_gate(attribution: pd.DataFrame) -> pd.DataFrame:
    """Signal where the answer's first token beats the other choices' more often than blind."""
    # Exact binomial test against the mean of one over the distinct first tokens (too wide, if
    # anything, for unequal chances: Hoeffding 1956, Ann. Math. Stat. 27), exact McNemar test
    # against another item's question where that was asked; Holm over the run's tasks and protocols.
    answers, chances = [], {}
    for place, group in attribution.groupby(["task", "protocol"]):
        items = group.drop_duplicates("item")
        answers.append(MethodAnswers.from_items(items, items["correct"].to_numpy(dtype=bool)))
        chances[place] = float(items["chance"].to_numpy(dtype=float).mean())
    return gate_table(answers, lambda task, protocol: chances[task, protocol])


def _piece(group: pd.DataFrame, seed: int, signal: bool) -> pd.DataFrame:
    """The parts of a task, its layers among them, with the means of their values over items."""
    task = str(group["task"].iloc[0])
    numbered = group.assign(part=group.groupby(_PART, dropna=False, sort=False).ngroup())
    parts = numbered.drop_duplicates("part").sort_values(_PART, ignore_index=True)
    wide = numbered.pivot(index="item", columns="part", values="value")
    values = wide[parts["part"]].to_numpy(dtype=float)
    parts = parts.reindex(columns=_PART)
    sublayers = parts["component"].isin(SUBLAYERS).to_numpy()
    layers, placed = sorted(set(parts.loc[sublayers, "layer"])), parts["layer"].fillna(-1)
    of_layers = [sublayers & (placed == layer).to_numpy(dtype=bool) for layer in layers]
    added = [values[:, chosen].sum(axis=1) for chosen in of_layers]
    named = pd.DataFrame({"component": "layer", "layer": layers, "head": pd.NA})
    parts = pd.concat([named.astype(parts.dtypes), parts], ignore_index=True)
    values, clusters = np.column_stack([*added, values]), clusters_from_table(group, wide.index)
    tested = np.where(np.abs(values).max(axis=0) > ROUNDING, mean_p_values(values, clusters), 1.0)
    return parts.assign(
        **{name: group[name].iloc[0] for name in _PIECE},
        n_items=len(values),
        **mean_columns("value", "", values, clusters, stats.generator(seed, task)),
        p=np.where(parts["component"].isin(TESTED), tested, np.nan),
        signal=signal,
        error=mean_errors(values, clusters),
        n_clusters=clusters.n,
    )


ANALYSIS = "direct logit attribution"
# Parts of each task and protocol in the short view.
_SHOWN = 5


@dataclass(frozen=True, repr=False, eq=False)
class AttributionResult(Result):
    """Direct contribution of each layer, sublayer and head to the answer's logit.

    Attributes:
        attribution: ``attribution.parquet``.
        facts: what is needed to repeat the run.
    """

    tables: ClassVar[tuple[str, ...]] = ("attribution",)
    derived_by: ClassVar[dict[str, str]] = {"attribution_summary": "summary"}
    title: ClassVar[str] = "Direct logit attribution: what adds most to the answer"
    if_empty: ClassVar[str] = (
        "No task has signal: the answer's first token is not above those of the other choices "
        "more often than blind."
    )

    attribution: pd.DataFrame
    facts: Facts

    @cache_tables
    def summary(self) -> pd.DataFrame:
        """``attribution_summary``: means over items with intervals and tests."""
        return summary_table(self.attribution, self.facts.seed)

    def _figure(self) -> Any:
        """Direct contribution of each head, in tasks with signal."""
        from .figures import attribution_heads

        summary = self.summary()
        return draw_table(self, attribution_heads, summary.loc[summary["signal"]])

    def notes(self) -> list[str]:
        """Items that are left out, and how often the model is right where it has no signal."""
        silent = no_signal.gate_sentences(attribution_gate(self.attribution))
        return [*exclusion_sentences(self.facts, ANALYSIS), *silent]

    def summary_rows(self) -> pd.DataFrame:
        """The parts that add most to the logit difference, of tasks with signal."""
        summary = self.summary()
        parts = summary["component"].isin([*SUBLAYERS, *HEADS])
        heard = summary.loc[summary["signal"] & parts & (summary["metric"] == "logit_diff")]
        ranked = heard.sort_values(by="value", ascending=False, kind="stable")
        top = ranked.groupby(["protocol", "task"], sort=True).head(_SHOWN)
        top = top.sort_values(["protocol", "task"], kind="stable")
        return in_short(self, drop_columns(CONTRIBUTIONS, "n"), top)


def _part(row: Row) -> str:
    place = name_layer(row["layer"]) + (f".{row['head']}" if row["component"] in HEADS else "")
    return f"{(SUBLAYER_WORDS | HEAD_WORDS)[row['component']]} {place}"


CONTRIBUTIONS = (
    *plain("task", "protocol"),
    Column("part", _part),
    text_column("n", "n_items"),
    estimate_column("adds (nats)", "value", "", 1, 2),
    p_column("p (corrected)", "p_adjusted"),
    yes_no_column("significant", "significant"),
)
