"""The typed result of sets of heads: answers without them, the ranking, and what each set costs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
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
from layerwise.stats.cells import BASELINES, Cell, cells
from layerwise.stats.contrasts import layer_weights, share_contrast
from layerwise.stats.effects import Chance, signal_table
from layerwise.stats.families.estimate import with_holm
from layerwise.stats.pools import has_much_to_lose, pool_cells
from layerwise.stats.signals.signal import signals
from layerwise.storage.base import Result, cache_tables
from layerwise.storage.parquet import frame
from layerwise.storage.provenance import Facts, join_facts

CHOSEN = 0
"""Number of the set of the chosen heads; random sets are numbered from 1 on."""
_TARGET = ["by", "ranked_on"]


def records_by_set(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of ``head_sets`` as records, with the number of the set in place of the layer."""
    return table.assign(site="layer", layer=table["set"], layers=None, head=None, heads=None)


def tables_by_target(table: pd.DataFrame) -> Iterator[tuple[tuple[str, str | None], pd.DataFrame]]:
    """Rows by the way to rank and the tasks that ranked, in the order in which they stand."""
    groups: Any = table.groupby(_TARGET, sort=False, dropna=False)
    for (by, ranked_on), group in groups:
        yield (str(by), None if pd.isna(ranked_on) else str(ranked_on)), group


def losses_table(table: pd.DataFrame, chance: Chance) -> pd.DataFrame:
    """``head_set_losses``: what each set costs, and what the chosen one costs beyond the others."""
    rows: list[dict[str, Any]] = []
    for (by, ranked_on), group in tables_by_target(table):
        every = list(cells(records_by_set(group)))
        signal = signals(every, chance)
        for cell in every:
            key = {"by": by, "ranked_on": ranked_on, "task": cell.task,
                   "capability": cell.capability, "protocol": cell.protocol}  # fmt: skip
            known = signal[cell.task, cell.protocol]
            rows += [key | row for row in _cell_rows(cell, chance, known)]
    tested = [row for row in rows if "p" in row]
    corrected = iter(with_holm(tested))
    return frame("head_set_losses", [next(corrected) if "p" in row else row for row in rows])


def _cell_rows(cell: Cell, chance: Chance, signal: bool) -> Iterator[dict[str, Any]]:
    """Rows of the sets of one task under one protocol."""
    floor = cell.floor(chance(cell.task, cell.protocol))
    able = signal and cell.clusters.n > 1 and has_much_to_lose(cell.intact, floor)
    pool = pool_cells([cell], {(cell.task, cell.protocol): floor}, 1)
    sets, acc = pool.layers.tolist(), cell.correct.mean(axis=0)
    same = {"n_items": len(cell.items), "signal": signal, "acc_intact": float(cell.intact.mean())}
    for at, number_of_set in enumerate(sets):
        row = same | {"set": number_of_set, "acc": float(acc[at])}
        if able:
            lost = share_contrast(pool, layer_weights(pool.layers, [number_of_set]))
            low, high = lost.bounds()
            row |= {"share_lost": lost.estimate, "share_low": low, "share_high": high}
        if number_of_set == CHOSEN:
            random = np.delete(acc, at)
            row |= {"n_random": len(random), "n_worse": int((random <= acc[at]).sum())}
            if able:
                others = [other for other in sets if other != CHOSEN]
                more = share_contrast(pool, layer_weights(pool.layers, [CHOSEN], others))
                low, high = more.bounds()
                p = min(1.0, 2 * min(more.p_above(), more.p_below()))
                row |= {"more": more.estimate, "more_low": low, "more_high": high, "p": p}
        yield row


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

    def plot(self) -> Any:
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
        """What the chosen sets cost, beside the random ones."""
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
