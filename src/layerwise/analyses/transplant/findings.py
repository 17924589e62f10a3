"""Sentences on a transplant: which layer carries what one model can do and the other cannot.

They read the tables of gaps and effects alone; what each could be mistaken for is said in it.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from layerwise.presentation.claim import Claim, finding, source, spaced, weight
from layerwise.presentation.naming import name_layer
from layerwise.presentation.over_run import LEVEL, every_test, n_tests, together
from layerwise.presentation.rows import numbers, records, rows
from layerwise.presentation.wording import (
    capitalised,
    counted,
    interval,
    joined,
    number,
    p_value,
    spread,
)
from layerwise.stats.interest import Interest
from layerwise.storage.run_tables import RunTables

from .findings_greedy import greedy_findings
from .names import (
    ACTIVATIONS,
    BRINGS,
    DESTROYS,
    OF_NO_LAYER,
    SINGLE,
    TOGETHER,
    WEIGHTS,
)
from .naming import counted_noun, is_plural, noun_of, what_of
from .words import models_of, named_model

KIND = "transplant"
EFFECTS, GAPS = "transplant_effects", "transplant_gaps"
_MOST, _MOST_NAMED = 3, 4

Row = dict[str, Any]


def findings(run: RunTables) -> list[Claim]:
    """What the changes of a run say, one sentence for each task, protocol and choice of layers."""
    every = run.table(EFFECTS)
    if every is None:
        return []
    shown = rows(every, signal=True, set=[SINGLE, TOGETHER], t=1.0)
    apart = ["exchange", "task", "protocol", "set"]
    cells = [cell for _, cell in shown.groupby(apart, sort=True)]
    smallest = Interest.of(run.facts.settings).loss
    told = spaced([_of_cell(cell, every, run, smallest) for cell in cells], _MOST)
    return [*told, *greedy_findings(run)]


def caveats(run: RunTables) -> list[Claim]:
    """Where there is no gap to be moved."""
    gaps = run.table(GAPS)
    if gaps is None:
        return []
    none = rows(gaps, found=False)
    if none.empty:
        return []
    told = records(none.head(_MOST_NAMED))
    named = joined(
        f"{row['task']} ({row['protocol']}: {number(100 * row['acc_base'])} and "
        f"{number(100 * row['acc_other'])} % right)"
        for row in told
    )
    more = len(none) - len(told)
    others = f" and {counted(more, 'other')}" if more > 0 else ""
    sentence = (
        f"Between {named_model(run, 'base')} and {named_model(run, 'other')} there is no gap to "
        f"move in {named}{others}: neither is established to be better than the other and than "
        f"guessing (n = {spread(none['n_items'])}), and no layers were exchanged."
    )
    return [finding(sentence, weight(0.3, 0.0), KIND, source(GAPS, {"found": False}))]


def _of_cell(cell: pd.DataFrame, every: pd.DataFrame, run: RunTables, smallest: float) -> Claim:
    """The strongest change of a task and protocol, by what it does in both directions."""
    sure = cell.loc[(numbers(cell, "p_run") < LEVEL) & (numbers(cell, "moved") >= smallest)]
    by = {
        direction: {row["intervention"]: row for row in records(rows(sure, direction=direction))}
        for direction in (BRINGS, DESTROYS)
    }
    if by[BRINGS] and _is_of_streams(cell):
        return _stream(cell, every, run, list(by[BRINGS].values()))
    both = [one for one in by[BRINGS] if one in by[DESTROYS]]
    if both:
        top = max(both, key=lambda one: min(by[way][one]["moved"] for way in by))
        return _carries(cell, every, run, (by[BRINGS][top], by[DESTROYS][top]), len(both))
    for way, words in ((BRINGS, _brings), (DESTROYS, _destroys)):
        if by[way]:
            top = max(by[way].values(), key=lambda row: row["moved"])
            return words(cell, every, run, top, len(by[way]))
    return _nothing(cell, every, run)


def _carries(
    cell: pd.DataFrame, every: pd.DataFrame, run: RunTables, top: tuple[Row, Row], n: int
) -> Claim:
    brings, destroys = top
    what, better, worse = what_of(brings), *models_of(run, brings)
    also = _also(n, cell)
    told = f"{_verb(brings, 'carries', 'carry')} what {better} can do and {worse} cannot"
    if brings["exchange"] == ACTIVATIONS:
        told = f"{_verb(brings, 'is', 'are')} where {better} can do what {worse} cannot"
    sentence = (
        f"{capitalised(what)} {told} "
        f"in {_where(brings)}: of its lead of {_lead(run, brings)} points, its own put into "
        f"the other brings {_points(brings)}, and the other's put into it destroys "
        f"{_points(destroys)}{also} ({_test(brings, every, destroys)})."
    )
    size = min(row["share"] for row in top)
    return _finding(sentence, 0.85, size, brings)


def _brings(cell: pd.DataFrame, every: pd.DataFrame, run: RunTables, top: Row, n: int) -> Claim:
    better, worse = models_of(run, top)
    sentence = (
        f"{capitalised(what_of(top))} of {better}, put into {worse}, "
        f"{_verb(top, 'brings', 'bring')} {_points(top)} points of its lead of {_lead(run, top)} "
        f"in {_where(top)}{_also(n, cell)}; that the lead is lost without it is not established: "
        f"other layers may do the same there ({_test(top, every)})."
    )
    return _finding(sentence, 0.7, top["share"], top)


def _destroys(cell: pd.DataFrame, every: pd.DataFrame, run: RunTables, top: Row, n: int) -> Claim:
    better, worse = models_of(run, top)
    sentence = (
        f"{capitalised(what_of(top))} of {worse}, put into {better}, "
        f"{_verb(top, 'destroys', 'destroy')} {_points(top)} points of its lead of "
        f"{_lead(run, top)} in {_where(top)}{_also(n, cell)}; the other way round nothing is "
        "established to be brought, so that it may be needed there, or not fit "
        f"({_test(top, every)})."
    )
    return _finding(sentence, 0.5, top["share"], top)


def _is_of_streams(cell: pd.DataFrame) -> bool:
    """Whether single layers' residual streams were put in."""
    shared = {name: set(cell[name]) for name in ("exchange", "site", "set")}
    return shared == {"exchange": {ACTIVATIONS}, "site": {"layer"}, "set": {SINGLE}}


def _stream(cell: pd.DataFrame, every: pd.DataFrame, run: RunTables, sure: list[Row]) -> Claim:
    """From which layer on the better model's stream is worth something to the other's layers."""
    first = min(sure, key=lambda row: row["layer"])
    better, worse = models_of(run, first)
    earlier = [
        row for row in records(rows(cell, direction=BRINGS)) if row["layer"] < first["layer"]
    ]
    before = ""
    if earlier:
        last = max(earlier, key=lambda row: row["layer"])
        before = (
            f", the first of which that is established (after layer {name_layer(last['layer'])}: "
            f"{_points(last)})"
        )
    sentence = (
        f"{capitalised(what_of(first))} of {better}, put into {worse}, brings {_points(first)} "
        f"points of its lead of {_lead(run, first)} in {_where(first)}{before}: so much of what "
        f"makes the difference has been done by there{_by_weights(first, every)} "
        f"({_test(first, every)})."
    )
    return _finding(sentence, 0.65, first["share"], first)


def _by_weights(first: Row, every: pd.DataFrame) -> str:
    """What the weights of the same layer bring, where they were exchanged too."""
    same = {name: first[name] for name in ("task", "protocol", "host", "site", "set", "layer")}
    found = records(rows(every, **same, exchange=WEIGHTS, t=1.0))
    if not found:
        return ""
    (row,) = found
    if row["p_run"] < LEVEL and row["moved"] > 0:
        return f"; the weights of that layer alone bring {_points(row)}"
    return (
        f"; that the weights of that layer alone bring any is not established ({_points(row)}), so "
        "that it may be what reaches the layer"
    )


def _nothing(cell: pd.DataFrame, every: pd.DataFrame, run: RunTables) -> Claim:
    top = max(records(cell), key=lambda row: row["moved"])
    better, _ = models_of(run, top)
    n = len(cell["intervention"].unique())
    which = f"{capitalised(what_of(top))} {_verb(top, 'is', 'are')} not"
    if top["set"] == SINGLE and top["site"] not in OF_NO_LAYER:
        which = f"No single {noun_of(top['site'])} is"
        if top["exchange"] == ACTIVATIONS:
            which = f"What leaves no single {noun_of(top['site'])} is"
    sentence = (
        f"{which} established to move the lead of {better} in {_where(top)}, "
        f"{_lead(run, top)} points, in either direction (of {counted(n, 'change')} that of "
        f"{what_of(top)} {top['direction']} most, {_points(top)} points, {together(every)}; "
        f"n = {top['n_items']})."
    )
    return _finding(sentence, 0.4, 0.0, top)


def _finding(sentence: str, top: float, size: float, row: Row) -> Claim:
    about = {name: str(row[name]) for name in ("task", "protocol", "set", "exchange")}
    at = source(EFFECTS, about, intervention=str(row["intervention"]))
    return finding(sentence, weight(top, size), KIND, at)


def _verb(row: Row, one: str, several: str) -> str:
    return several if is_plural(row) else one


def _where(row: Row) -> str:
    return f"{row['task']} ({row['protocol']})"


def _lead(run: RunTables, row: Row) -> str:
    gaps = run.table(GAPS)
    found = None if gaps is None else rows(gaps, task=row["task"], protocol=row["protocol"])
    if found is None or found.empty:
        return number(100 * abs(row["acc_other"] - row["acc_base"]))
    (one,) = records(found)
    return interval(*(100 * one[name] for name in ("gap", "gap_low", "gap_high")))


def _points(row: Row) -> str:
    return interval(*(100 * row[name] for name in ("moved", "run_low", "run_high")))


def _also(n: int, cell: pd.DataFrame) -> str:
    """How many others of how many changes do the same."""
    tried = len(cell["intervention"].unique())
    if tried == 1:
        return ""
    site = str(cell["site"].iloc[0])
    if n > 1:
        return f", the strongest of {n} such {counted_noun(site, n)} of {tried}"
    return f", the only one of {tried} {counted_noun(site, tried)} that does so"


def _test(row: Row, every: pd.DataFrame, *more: Row) -> str:
    p = max(one["p_run"] for one in (row, *more))
    both = "the larger of both " if more else ""
    return (
        f"{both}{p_value(p)} after Holm's correction over {every_test(n_tests(every))} of "
        f"the run; {together(every)}; n = {row['n_items']}"
    )
