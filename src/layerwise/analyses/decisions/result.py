"""The typed result of sequential decisions: the answers that were asked, and the verdicts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd

from layerwise.presentation import no_signal
from layerwise.presentation.columns import (
    LAYER,
    Column,
    estimate_column,
    in_short,
    p_column,
    plain,
    text_column,
)
from layerwise.presentation.rows import numbers
from layerwise.presentation.section import draw_table
from layerwise.stats.cells import BASELINES
from layerwise.stats.effects import signal_table
from layerwise.storage.base import Result, cache_tables
from layerwise.storage.provenance import Facts

from .verdicts import Rules

RECORDS = "decision_records"


@dataclass(frozen=True, repr=False, eq=False)
class DecisionsResult(Result):
    """Layers decided one by one, and the answers that this took.

    Attributes:
        decision_records: ``decision_records.parquet``: every answer that was asked.
        facts: what is needed to repeat the run.
    """

    tables: ClassVar[tuple[str, ...]] = (RECORDS,)
    derived_by: ClassVar[dict[str, str]] = {"decisions": "decisions"}
    title: ClassVar[str] = "Decisions: layers that are needed, and spare ones"
    if_empty: ClassVar[str] = (
        "No task has signal, or enough right answers to lose: nothing is decided."
    )

    decision_records: pd.DataFrame
    facts: Facts

    @cache_tables
    def decisions(self) -> pd.DataFrame:
        """``decisions``: a verdict per layer and question, and the items that it took."""
        return Rules.from_facts(self.facts).table(self.decision_records, self.facts.chance)

    def signal(self) -> pd.DataFrame:
        """Tasks that the intact model answers better than blind (columns of ``signal``)."""
        baseline = self.decision_records["kind"].isin(BASELINES)
        return signal_table(self.decision_records.loc[baseline], self.facts.chance)

    def share_asked(self) -> float:
        """Share of all answers without a layer that was asked; nan if nothing has signal."""
        layers = self.decisions().drop_duplicates(["capability", "protocol", "layer"])
        n_asked, n_all = (numbers(layers, name).sum() for name in ("n_asked", "n_all"))
        return float(n_asked / n_all) if n_all else float("nan")

    def _figure(self) -> Any:
        """A strip over the layers: what is decided, and the items that it took."""
        from .figures import decision_strip

        return draw_table(self, decision_strip, self.decisions())

    def summary_rows(self) -> pd.DataFrame:
        """Verdicts that are established, soonest first."""
        table = self.decisions()
        sure = table.loc[table["established"]]
        order = ["question", "n_items", "layer"]
        return in_short(self, COLUMNS, sure.sort_values(order, kind="stable"))

    def notes(self) -> list[str]:
        """Share that was asked, and what to try where the model has no signal."""
        share, told = self.share_asked(), no_signal.sentences(self.signal(), self.facts)
        if share != share:
            return told
        return [f"{100 * share:.0f} % of the answers without a layer were asked.", *told]


COLUMNS = (
    *plain("capability", "protocol"),
    LAYER,
    text_column("question", "question"),
    Column("verdict", lambda row: "yes" if row["established"] else "open"),
    Column(
        "against",
        lambda row: "" if pd.isna(row["other"]) else f"{row['other']}, layer {row['other_layer']}",
    ),
    Column("items", lambda row: f"{row['n_items']} of {row['n_all']}"),
    Column("measure", lambda row: str(row["measure"])),
    estimate_column("cost", "estimate", "", 1, 3),
    p_column("p (Holm)", "p_holm"),
)
