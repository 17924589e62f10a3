"""The typed result of ablation, and the compact table that it shows in a notebook."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd

from layerwise.analyses.ablation.lookup import is_set
from layerwise.presentation import no_signal
from layerwise.presentation.columns import in_short, without
from layerwise.presentation.drawing import drawn
from layerwise.stats.capability_layers import estimates_table
from layerwise.stats.cells import has_several_examples
from layerwise.stats.effects import corrected, effects_table, signal_table
from layerwise.stats.interest import Interest
from layerwise.storage.base import Result, computed_once
from layerwise.storage.parquet import frame
from layerwise.storage.provenance import Facts

from .books import book_tables
from .columns import SCORE, effect_columns
from .ladder import ladder_table, step_tables
from .questions import questions_in


def records_frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Ablation records as a table with the columns and types of ``records.parquet``.

    Args:
        rows: one dict per row; columns that allow null may be left out.

    Raises:
        ValueError: if a row has an unknown column, or lacks a value that it must have.
    """
    return frame("records", rows)


@dataclass(frozen=True, repr=False, eq=False)
class AblationResult(Result):
    """Outcomes of every item with parts of the model changed, and their paired effects.

    Attributes:
        records: ``records.parquet``.
        facts: what is needed to repeat the run.
        questions: gives what was asked, as text (``questions``); None if that is not known.
    """

    tables: ClassVar[tuple[str, ...]] = ("records",)
    title: ClassVar[str] = "Ablation: what hurts most"
    if_empty: ClassVar[str] = "No task has signal: the intact model is not better than blind."

    records: pd.DataFrame
    facts: Facts
    questions: Callable[[], pd.DataFrame] | None = None

    @classmethod
    def load(cls, folder: str | Path) -> AblationResult:
        """As of every result; questions are read from its folder when they are asked for."""
        found = super().load(folder)
        return replace(found, questions=questions_in(Path(folder), found.records))

    @computed_once
    def signal(self) -> pd.DataFrame:
        """``signal.parquet``: is the intact model better than blind, per task and protocol?"""
        return signal_table(self.records, self.facts.chance)

    @computed_once
    def effects(self) -> pd.DataFrame:
        """``effects.parquet``: the paired effect of every intervention."""
        interest = Interest.of(self.facts.settings)
        return effects_table(self.records, self.facts.chance, self.facts.seed, interest)

    @computed_once
    def estimates(self) -> pd.DataFrame:
        """``estimates.parquet``: what capabilities need, need more than others, and can spare."""
        smallest = Interest.of(self.facts.settings).loss
        return estimates_table(self.records, self.facts.chance, smallest)

    @computed_once
    def ladder(self) -> pd.DataFrame:
        """``ladder.parquet``: what changing each layer costs on every rung of scoring."""
        if has_several_examples(self.records):
            return frame("ladder", [])  # rungs are compared answer by answer
        return ladder_table(self.records, self.effects(), self.facts)

    @computed_once
    def ladder_steps(self) -> dict[str, pd.DataFrame]:
        """``ladder_steps`` and ``dissociations``: does another rung need other layers?"""
        return step_tables(self.records, self.ladder(), self.facts)

    @computed_once
    def book_tables(self) -> dict[str, pd.DataFrame]:
        """``books`` and ``book_pairs``: of items asked closed and open book, what is protected."""
        return book_tables(self.records, self.signal(), self.facts)

    def books(self) -> pd.DataFrame:
        """``books.parquet``: what each change costs with a passage and without it."""
        return self.book_tables()["books"]

    def derived(self) -> dict[str, pd.DataFrame]:
        """``signal`` and ``effects``; the ladder of scoring and pairs of books where there are."""
        found = {"signal": self.signal(), "effects": self.effects()}
        estimates = self.estimates()
        found |= {} if estimates.empty else {"estimates": estimates}
        books = self.book_tables()
        found |= {} if books["book_pairs"].empty else books
        ladder = self.ladder()
        return found if ladder.empty else found | {"ladder": ladder} | self.ladder_steps()

    def plot(self) -> Any:
        """The role map; of heads alone, their maps; of blocks and sets alone, their losses."""
        from .figures.head_effects import head_effect_maps
        from .figures.role_map import role_map
        from .figures.sets import set_losses

        effects = self.effects()
        layers = effects.loc[effects["head"].isna()]
        if layers.empty:
            return drawn(self, head_effect_maps, effects.loc[effects["signal"]])
        single = layers.loc[~is_set(layers)]
        if single.empty:
            return drawn(self, set_losses, layers.loc[layers["signal"]])
        kind, site = (str(single[name].iloc[0]) for name in ("kind", "site"))
        return drawn(self, role_map, single, kind, site, signal=self.signal())

    def summary_rows(self) -> pd.DataFrame:
        """The most harmful interventions by protocol; without any, the signal."""
        effects = self.effects()
        if effects.empty:
            return in_short(self, SCORE, self.signal())
        return in_short(self, _SHOWN, most_harmful(effects))

    def notes(self) -> list[str]:
        """How often the model is right where it has no signal, and what to try."""
        return no_signal.sentences(self.signal(), self.facts)


_HIDDEN = (
    "n", "accuracy (%)", "change (points)", "gold log-prob. lost (nats)", "margin lost (nats)",
    "p (run, corrected)",
)  # fmt: skip
_SHOWN = without(effect_columns("p_corrected", "corrected"), *_HIDDEN)


def most_harmful(effects: pd.DataFrame, n_top: int = 5) -> pd.DataFrame:
    """The most harmful interventions under each protocol, of tasks that have signal."""
    found = effects.loc[effects["signal"]].sort_values(
        by="share_lost", ascending=False, kind="stable"
    )
    top = found.groupby("protocol", sort=True).head(n_top).sort_values("protocol", kind="stable")
    return top.assign(p_corrected=corrected(top))
