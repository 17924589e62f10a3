"""The typed result of sets of heads: answers without them, the ranking, and what each set costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd

from layerwise.presentation import no_signal
from layerwise.presentation.columns import (
    Column,
    estimate_column,
    in_short,
    number_column,
    p_column,
    plain,
    text_column,
)
from layerwise.presentation.section import draw_table
from layerwise.presentation.wording import number
from layerwise.stats.cells import BASELINES
from layerwise.stats.effects import signal_table
from layerwise.storage.base import Result, cache_tables
from layerwise.storage.provenance import Facts, join_facts

from .tables import CHOSEN, losses_table, records_by_set, tables_by_target


@dataclass(frozen=True, repr=False, eq=False)
class HeadSetsResult(Result):
    """Answers without small sets of heads, beside random sets of the same size.

    Attributes:
        head_sets: ``head_sets.parquet``: every answer without every set.
        ranked_heads: ``ranked_heads.parquet``: scores of all heads, and which were chosen.
        facts: what is needed to repeat the run.
    """

    tables: ClassVar[tuple[str, ...]] = ("head_sets", "ranked_heads")
    derived_by: ClassVar[dict[str, str]] = {"head_set_losses": "losses"}
    title: ClassVar[str] = "Sets of heads: what is lost without them"
    if_empty: ClassVar[str] = (
        "No head was chosen, or the model has no signal or too few right answers to lose."
    )

    head_sets: pd.DataFrame
    ranked_heads: pd.DataFrame
    facts: Facts

    @cache_tables
    def losses(self) -> pd.DataFrame:
        """``head_set_losses``: what each set costs of each task, and the chosen one beyond."""
        return losses_table(self.head_sets, self.facts.chance)

    def chosen_heads(self) -> list[tuple[int, int]]:
        """The layer and head of every head that is in a chosen set."""
        chosen = self.ranked_heads.loc[self.ranked_heads["chosen"], ["layer", "head"]]
        return sorted(set(zip(map(int, chosen["layer"]), map(int, chosen["head"]), strict=True)))

    def _figure(self) -> Any:
        """Share of the score that each set costs, by task."""
        from .figures import set_losses

        losses = self.losses()
        return draw_table(self, set_losses, losses.loc[losses["share_lost"].notna()])

    def notes(self) -> list[str]:
        """Sets that were not found, and what to try where the model has no signal."""
        none = [
            f"No set of heads by {by}{f' on {ranked_on}' if ranked_on else ''} was removed: no "
            "head was chosen, or no other heads were left to draw random sets from."
            for (by, ranked_on), ranked in tables_by_target(self.ranked_heads)
            if not any(map(len, ranked["random"]))
        ]
        if self.head_sets.empty:
            return none
        asked = records_by_set(self.head_sets)
        asked = asked.loc[asked["kind"].isin(BASELINES)]
        asked = asked.drop_duplicates(["task", "protocol", "item", "intervention"])
        return [*none, *no_signal.sentences(signal_table(asked, self.facts.chance), self.facts)]

    def summary_rows(self) -> pd.DataFrame:
        """The cost of the chosen sets, beside the random ones."""
        losses = self.losses()
        return in_short(self, LOSSES, losses.loc[losses["set"] == CHOSEN])


def join_head_sets(results: Sequence[HeadSetsResult]) -> HeadSetsResult:
    """Sets by several ways to rank as one result."""
    if len(results) == 1:
        return results[0]
    return HeadSetsResult(
        pd.concat([result.head_sets for result in results], ignore_index=True),
        pd.concat([result.ranked_heads for result in results], ignore_index=True),
        join_facts([result.facts for result in results]),
    )


LOSSES = (
    text_column("heads by", "by"),
    text_column("ranked on", "ranked_on"),
    *plain("task", "protocol"),
    text_column("n", "n_items"),
    Column(
        "accuracy (%)",
        lambda row: f"{number(100 * row['acc_intact'])} → {number(100 * row['acc'])}",
    ),
    estimate_column("share lost (%)", "share_lost", "share_", 100),
    estimate_column("beyond random sets (%)", "more", "more_", 100),
    text_column("random sets", "n_random"),
    text_column("of these as bad", "n_worse"),
    p_column("p (Holm)", "p_holm"),
)
RANKED = (
    text_column("heads by", "by"),
    text_column("ranked on", "ranked_on"),
    Column("head", lambda row: f"{row['layer']}.{row['head']}"),
    number_column("score", "score", 1, 3),
    text_column("n", "n_items"),
)
