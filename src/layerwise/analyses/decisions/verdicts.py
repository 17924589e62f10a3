"""Rules of a run's verdicts, and its standing after some rounds, from its records alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd

from layerwise.stats.sequential.asked import (
    ToAsk,
    asked_cells,
    n_left,
    next_round,
    refuse_missing_answers,
)
from layerwise.stats.sequential.decisions import Decided, decide, decision_rows
from layerwise.stats.share_tests.equivalence import SmallestEffects
from layerwise.stats.signals.signal import signals
from layerwise.storage.parquet import conform, frame
from layerwise.storage.provenance import Facts

Chance = Callable[[str, str], float]


class Standing(NamedTuple):
    """Verdicts and open questions after some rounds."""

    n_rounds: int
    to_ask: tuple[ToAsk, ...]  # what the next round asks; none if all is decided or asked
    n_places: int  # layers of a capability under a protocol, where there is signal
    n_open: int  # of these, those that are asked further
    n_asked: int  # answers that these have so far
    n_left: int  # answers that are to come, if no layer left any more

    @property
    def n_next(self) -> int:
        """Answers of the next round."""
        return sum(len(one.items) * len(one.protocols) * len(one.layers) for one in self.to_ask)


@dataclass(frozen=True)
class Rules:
    """Rules that verdicts are made by, fixed before anything is answered."""

    layers: tuple[int, ...]
    questions: tuple[str, ...]
    measure: str | None
    smallest: SmallestEffects
    round_items: int
    seed: int

    @classmethod
    def from_facts(cls, facts: Facts) -> Rules:
        """Those that a run was made with."""
        settings: dict[str, Any] = facts.settings
        return cls(
            tuple(settings["layers"]), tuple(settings["questions"]), settings["measure"],
            SmallestEffects.from_settings(settings), settings["round_items"], facts.seed,
        )  # fmt: skip

    def stand(self, records: pd.DataFrame, chance: Chance, n_rounds: int) -> Standing:
        """Standing after so many rounds, which the records must hold."""
        decided = self._decide(records, chance, n_rounds)
        if decided is None:
            return Standing(n_rounds, (), 0, 0, 0, 0)
        to_ask = tuple(next_round(decided, n_rounds))
        there = decided.race.there
        n_asked = [] if n_rounds == 0 else [
            int(one.n_answers[min(n_rounds, len(one.ends)) - 1]) for one in decided.pools
        ]  # fmt: skip
        return Standing(
            n_rounds, to_ask, len(there), int(there.sum()), max(n_asked, default=0),
            n_left(decided, n_rounds),
        )  # fmt: skip

    def table(self, records: pd.DataFrame, chance: Chance) -> pd.DataFrame:
        """``decisions``: all verdicts of a run that has ended."""
        decided = self._decide(records, chance, None)
        if decided is None:
            return frame("decisions", [])
        return conform("decisions", decision_rows(decided, self.questions))

    def _decide(
        self, records: pd.DataFrame, chance: Chance, n_rounds: int | None
    ) -> Decided | None:
        every = asked_cells(records, self.layers)
        cells = [one.cell for one in every]
        floors = {(one.task, one.protocol): one.floor(chance(one.task, one.protocol))
                  for one in cells}  # fmt: skip
        decided = decide(
            cells, signals(cells, chance), floors, seed=self.seed, measure=self.measure,
            questions=self.questions, smallest=self.smallest, round_size=self.round_items,
            n_rounds=n_rounds,
        )  # fmt: skip
        if decided is not None:
            refuse_missing_answers(decided, every)
        return decided
