"""Sentences on a distillation: what the student can do more or less than before.

They read the table of gains alone.
"""

from __future__ import annotations

from typing import Any

from layerwise.presentation.claim import Claim, finding, source, spaced, weight
from layerwise.presentation.over_run import after_holm, every_test
from layerwise.presentation.rows import records
from layerwise.presentation.wording import capitalised, counted, interval, number, p_value, spread
from layerwise.storage.run_tables import RunTables

from .words import taught_in_words

KIND = "distillation"
GAINS = "distillation_gains"
_MOST = 3

Row = dict[str, Any]


def findings(run: RunTables) -> list[Claim]:
    """What training brought and cost, a sentence for each task and protocol where it is sure."""
    gains = run.table(GAINS)
    if gains is None or gains.empty:
        return []
    every = records(gains)
    sure = [row for row in every if row["improved"] or row["worse"]]
    if not sure:
        return [_nothing(run, every)]
    return spaced([_of(run, row, len(every)) for row in sure], _MOST)


def _of(run: RunTables, row: Row, n: int) -> Claim:
    better = bool(row["improved"])
    lead = ""
    if better and row["leads"]:
        share = interval(*(100 * row[name] for name in ("closed", "closed_low", "closed_high")))
        lead = f", {share} % of the teacher's lead"
    sentence = (
        f"{capitalised(taught_in_words(run.facts))} is {'better' if better else 'worse'} than "
        f"before in {row['task']} ({row['protocol']}): {number(100 * row['acc_distilled'])} % are "
        f"right, {number(100 * row['acc_student'])} % were, and the teacher has "
        f"{number(100 * row['acc_teacher'])} %; that is {'' if better else 'a change of '}"
        f"{_points(row)} points{lead} ({_test(row, n)})."
    )
    return _finding(sentence, 0.8, abs(row["gain"]), row)


def _nothing(run: RunTables, every: list[Row]) -> Claim:
    top = max(every, key=lambda row: abs(row["gain"]))
    asked = counted(len(every), "task and protocol") if len(every) == 1 else (
        f"{len(every)} tasks and protocols")  # fmt: skip
    sentence = (
        f"{capitalised(taught_in_words(run.facts))} is not established to be better or worse than "
        f"before in any of {asked}: the largest change is {_points(top)} points, in {top['task']} "
        f"({top['protocol']}; {_together(len(every))}; n = "
        f"{spread(row['n_items'] for row in every)})."
    )
    return _finding(sentence, 0.4, 0.0, top)


def _finding(sentence: str, top: float, size: float, row: Row) -> Claim:
    at = {name: str(row[name]) for name in ("task", "protocol")}
    return finding(sentence, weight(top, size), KIND, source(GAINS, {}, **at))


def _points(row: Row) -> str:
    return interval(*(100 * row[name] for name in ("gain", "gain_run_low", "gain_run_high")))


def _together(n: int) -> str:
    return f"bounds for {every_test(n)} of the run together"


def _test(row: Row, n: int) -> str:
    return f"{p_value(row['p_holm'])} {after_holm(n)}; {_together(n)}; n = {row['n_items']}"
