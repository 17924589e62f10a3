"""The typed result of ablation, and the compact table that it shows in a notebook."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from layerwise.errors import UserError
from layerwise.presentation import no_signal
from layerwise.presentation.columns import drop_columns, in_short
from layerwise.presentation.section import draw_table
from layerwise.stats.capability_layers import estimates_table
from layerwise.stats.cells import has_several_examples
from layerwise.stats.effects import BASELINES, corrected_p, effects_table, signal_table
from layerwise.stats.share_tests.equivalence import SmallestEffects
from layerwise.storage.base import Result, cache_tables
from layerwise.storage.parquet import frame
from layerwise.storage.provenance import Facts, join_facts

from .columns import SCORE, effect_columns
from .questions import read_questions
from .saved_effects import is_set
from .scoring_steps import compare_steps, scored_in_steps, with_passages

_CELL = ["task", "protocol"]
# What names a record: the intact model's is one however often a run asks it.
ANSWER = [*_CELL, "item", "intervention", "draw", "examples"]
# Other batches round differently; other prompts differ by far more (nats).
_SAME = 0.1


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
        result = super().load(folder)
        items = frozenset(map(str, result.records["item"].unique()))
        return replace(result, questions=partial(read_questions, Path(folder), items))

    @cache_tables
    def signal(self) -> pd.DataFrame:
        """``signal``: is the intact model better than blind, per task and protocol?"""
        return signal_table(self.records, self.facts.chance)

    @cache_tables
    def effects(self) -> pd.DataFrame:
        """``effects``: the paired effect of every intervention."""
        interest = SmallestEffects.from_settings(self.facts.settings)
        return effects_table(self.records, self.facts.chance, self.facts.seed, interest)

    @cache_tables
    def capability_estimates(self) -> pd.DataFrame:
        """Needs of capabilities, differences between them, and spare layers."""
        smallest = SmallestEffects.from_settings(self.facts.settings).loss
        return estimates_table(self.records, self.facts.chance, smallest)

    @cache_tables
    def ladder(self) -> pd.DataFrame:
        """``ladder``: what changing each layer costs at every scoring step."""
        if has_several_examples(self.records):
            return frame("ladder", [])  # steps are compared answer by answer
        return scored_in_steps(self.records, self.effects(), self.facts)

    @cache_tables
    def ladder_steps(self) -> dict[str, pd.DataFrame]:
        """``ladder_steps`` and ``dissociations``: does another scoring step need other layers?"""
        return compare_steps(self.records, self.ladder(), self.facts)

    @cache_tables
    def book_tables(self) -> dict[str, pd.DataFrame]:
        """``books`` and ``book_pairs``: of items asked closed and open book, what is protected."""
        return with_passages(self.records, self.signal(), self.facts)

    def books(self) -> pd.DataFrame:
        """``books``: what each change costs with a passage and without it."""
        return self.book_tables()["books"]

    def derived_tables(self) -> dict[str, pd.DataFrame]:
        """``signal`` and ``effects``; the ladder of scoring and pairs of books where there are."""
        tables = {"signal": self.signal(), "effects": self.effects()}
        estimates = self.capability_estimates()
        tables |= {} if estimates.empty else {"capability_estimates": estimates}
        books = self.book_tables()
        tables |= {} if books["book_pairs"].empty else books
        ladder = self.ladder()
        return tables if ladder.empty else tables | {"ladder": ladder} | self.ladder_steps()

    def _figure(self) -> Any:
        """The role map; of heads alone, their maps; of blocks and sets alone, their losses."""
        from .figures import head_effect_maps, role_map, set_losses

        effects = self.effects()
        layers = effects.loc[effects["head"].isna()]
        if layers.empty:
            return draw_table(self, head_effect_maps, effects.loc[effects["signal"]])
        single = layers.loc[~is_set(layers)]
        if single.empty:
            return draw_table(self, set_losses, layers.loc[layers["signal"]])
        kind, site = (str(single[name].iloc[0]) for name in ("kind", "site"))
        return draw_table(self, role_map, single, kind, site, signal=self.signal())

    def summary_rows(self) -> pd.DataFrame:
        """The most harmful interventions by protocol; without any, the signal."""
        effects = self.effects()
        if effects.empty:
            return in_short(self, SCORE, self.signal())
        ranked = effects.loc[effects["signal"]].sort_values(
            by="share_lost", ascending=False, kind="stable"
        )
        top = ranked.groupby("protocol", sort=True).head(5)
        top = top.sort_values("protocol", kind="stable")
        return in_short(self, _SHOWN, top.assign(p_corrected=corrected_p(top)))

    def notes(self) -> list[str]:
        """Accuracy of the model where it has no signal, and what to try."""
        return no_signal.sentences(self.signal(), self.facts)


_SHOWN = drop_columns(
    effect_columns("p_corrected", "corrected"),
    "n", "accuracy (%)", "change (points)", "gold log-prob. lost (nats)", "margin lost (nats)",
    "p (run, corrected)",
)  # fmt: skip


def join_ablations(results: Sequence[Result]) -> list[Result]:
    """The results with all ablations among them made one, at the place of the first."""
    runs = [result for result in results if isinstance(result, AblationResult)]
    if len(runs) < 2:
        return list(results)
    if not all(can_join(*pair) for pair in combinations(runs, 2)):
        raise UserError(
            "Two ablations do not belong together, for they hold the same change or their intact "
            "models answered differently: expected other changes under the same prompts; report "
            "them apart."
        )
    records = pd.concat([result.records for result in runs], ignore_index=True)
    again = records.duplicated(ANSWER)  # the intact model, asked again
    records = records.loc[~again]
    facts = join_facts([result.facts for result in runs])
    settings = {}  # all values of one in which they differ
    for name in facts.settings:
        values = [run.facts.settings[name] for run in runs if name in run.facts.settings]
        distinct = [value for i, value in enumerate(values) if value not in values[:i]]
        settings[name] = distinct[0] if len(distinct) == 1 else distinct
    facts = facts.model_copy(update={"settings": settings})
    joined = AblationResult(records, facts, runs[0].questions)
    others = [result for result in results if result not in runs]
    others.insert(list(results).index(runs[0]), joined)
    return others


def can_join(first: AblationResult, other: AblationResult) -> bool:
    """True if no change is in both, and the intact model answered alike where both asked."""
    change = [*_CELL, "intervention", "kind"]
    own, others = (result.records[change].drop_duplicates() for result in (first, other))
    both = own.merge(others)
    if set(both["kind"]) - set(BASELINES):
        return False
    one, two = (
        result.records.query("intervention == 'intact'")
        .merge(both[_CELL].drop_duplicates())
        .sort_values(ANSWER)
        for result in (first, other)
    )
    alike = all(one[name].tolist() == two[name].tolist() for name in ("item", "correct"))
    gold = (table["gold_logprob"].to_numpy(dtype=float) for table in (one, two))
    return alike and np.allclose(*gold, rtol=0, atol=_SAME, equal_nan=True)
