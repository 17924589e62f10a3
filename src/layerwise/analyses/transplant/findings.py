"""Claims on a transplant: which layer carries what one model can do and the other cannot.

They read the tables of gaps and effects alone; what each could be mistaken for is its caveat.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd

from layerwise.presentation.claim import OPEN, Claim, source, spaced, weight
from layerwise.presentation.naming import name_layer
from layerwise.presentation.over_run import LEVEL
from layerwise.presentation.rows import asked_of, numbers, records, rows
from layerwise.presentation.wording import capitalised, counted, interval, number, percent
from layerwise.stats.share_tests.equivalence import Interest
from layerwise.storage.run_tables import RunTables

from .names import ACTIVATIONS, BRINGS, DESTROYS, OF_NO_LAYER, SINGLE, TOGETHER, WEIGHTS
from .naming import (
    KIND,
    brief,
    counted_noun,
    is_plural,
    measured,
    models_of,
    named_models,
    noun_of,
    order_of,
    put_in,
    what_of,
    where,
)

EFFECTS, GAPS = "transplant_effects", "transplant_gaps"
_MOST = 3
# What a change in one direction alone is worth, and does not show.
_ONE_WAY = {
    BRINGS: (0.7, "That the lead is lost without it is not established: other layers may do the "
             "same there."),
    DESTROYS: (0.5, "The other way round nothing is established to be brought, so that it may be "
               "needed there, or not fit."),
}  # fmt: skip
Row = dict[str, Any]
GREEDY = "transplant_greedy"
_MOST_CHOSEN = 2


def findings(run: RunTables) -> list[Claim]:
    """What the changes of a run say, one claim for each task, protocol and choice of layers."""
    every = run.table(EFFECTS)
    if every is None:
        return []
    shown = rows(every, signal=True, set=[SINGLE, TOGETHER], t=1.0)
    apart = ["exchange", "task", "protocol", "set"]
    cells = [cell for _, cell in shown.groupby(apart, sort=True)]
    smallest = Interest.of(run.facts.settings).loss
    claims = spaced([_of_cell(cell, every, run, smallest) for cell in cells], _MOST)
    return [*claims, *greedy_findings(run)]


def caveats(run: RunTables) -> list[Claim]:
    """Where there is no gap to be moved."""
    gaps = run.table(GAPS)
    if gaps is None:
        return []
    none = rows(gaps, found=False)
    if none.empty:
        return []
    without_gap = records(none)
    among = f"in {len(none)} tasks and protocols" if len(none) > 1 else where(without_gap[0])
    accuracies = (
        f"In {row['task']} ({row['protocol']}) the base is right in "
        f"{number(100 * row['acc_base'])} %, the other model in {number(100 * row['acc_other'])} %."
        for row in without_gap
    )
    return [
        Claim(
            kind=KIND,
            short=f"There is no gap to move between the two models {among}.",
            evidence=OPEN,
            importance=weight(0.3, 0.0),
            source=source(GAPS, {"found": False}),
            details=(*accuracies, "No layers were exchanged there.", *named_models(run)),
            caveat="Neither is established to be better than the other and than guessing.",
            **asked_of(none),
        )
    ]


def _of_cell(cell: pd.DataFrame, every: pd.DataFrame, run: RunTables, smallest: float) -> Claim:
    """The strongest change of a task and protocol, by what it does in both directions."""
    sure = cell.loc[(numbers(cell, "p_run") < LEVEL) & (numbers(cell, "moved") >= smallest)]
    by = {
        direction: {row["intervention"]: row for row in records(rows(sure, direction=direction))}
        for direction in (BRINGS, DESTROYS)
    }
    if by[BRINGS] and _is_of_streams(cell):
        return _stream(cell, every, run, list(by[BRINGS].values()))
    both = [change for change in by[BRINGS] if change in by[DESTROYS]]
    if both:
        top = max(both, key=lambda change: min(by[way][change]["moved"] for way in by))
        return _carries(cell, every, run, (by[BRINGS][top], by[DESTROYS][top]), len(both))
    for way, (worth, caveat) in _ONE_WAY.items():
        if by[way]:
            top = max(by[way].values(), key=lambda row: row["moved"])
            claim = _claim(cell, every, run, top, len(by[way]))
            return replace(claim, importance=weight(worth, top["share"]), caveat=caveat)
    return _nothing(cell, every, run)


def _carries(
    cell: pd.DataFrame, every: pd.DataFrame, run: RunTables, top: tuple[Row, Row], n: int
) -> Claim:
    brings, destroys = top
    what, better, worse = capitalised(brief(what_of(brings), brings)), *models_of(brings)
    action = f"{_verb(brings, 'carries', 'carry')} what {better} can do and {worse} cannot"
    if brings["exchange"] == ACTIVATIONS:
        action = f"{_verb(brings, 'is', 'are')} where {better} can do what {worse} cannot"
    claim = _claim(cell, every, run, brings, n)
    back = f"The other's put into the better model destroys {_points(destroys)} points."
    return replace(
        claim,
        short=f"{what} {action} {where(brings)}.",
        importance=weight(0.85, min(row["share"] for row in top)),
        p=max(float(row["p_run"]) for row in top),
        test=f"the larger of both; {claim.test}",
        details=(*claim.details, back),
    )


def _is_of_streams(cell: pd.DataFrame) -> bool:
    """Whether single layers' residual streams were put in."""
    shared = {name: set(cell[name]) for name in ("exchange", "site", "set")}
    return shared == {"exchange": {ACTIVATIONS}, "site": {"layer"}, "set": {SINGLE}}


def _stream(cell: pd.DataFrame, every: pd.DataFrame, run: RunTables, sure: list[Row]) -> Claim:
    """From which layer on the better model's stream is worth something to the other's layers."""
    first = min(sure, key=lambda row: row["layer"])
    before = [row for row in records(rows(cell, direction=BRINGS)) if row["layer"] < first["layer"]]
    details = ["So much of what makes the difference has been done by there."]
    if before:
        last = max(before, key=lambda row: row["layer"])
        details.append(
            f"It is the first that is established to; after layer {name_layer(last['layer'])}: "
            f"{_points(last)} points."
        )
    claim = _claim(cell, every, run, first, 0)
    return replace(
        claim,
        importance=weight(0.65, first["share"]),
        details=(*details, *_by_weights(first, every), *claim.details),
    )


def _by_weights(first: Row, every: pd.DataFrame) -> tuple[str, ...]:
    """What the weights of the same layer bring, where they were exchanged too."""
    same = {name: first[name] for name in ("task", "protocol", "host", "site", "set", "layer")}
    by_weights = records(rows(every, **same, exchange=WEIGHTS, t=1.0))
    if not by_weights:
        return ()
    (row,) = by_weights
    if row["p_run"] < LEVEL and row["moved"] > 0:
        return (f"The weights of that layer alone bring {_points(row)} points.",)
    return (
        f"That the weights of that layer alone bring any is not established: {_points(row)}.",
        "So it may be what reaches the layer.",
    )


def _nothing(cell: pd.DataFrame, every: pd.DataFrame, run: RunTables) -> Claim:
    top = max(records(cell), key=lambda row: row["moved"])
    better, _ = models_of(top)
    n = len(cell["intervention"].unique())
    which = f"{capitalised(brief(what_of(top), top))} {_verb(top, 'is', 'are')} not"
    if top["set"] == SINGLE and top["site"] not in OF_NO_LAYER:
        which = f"No single {noun_of(top['site'])} is"
        if top["exchange"] == ACTIVATIONS:
            which = f"What leaves no single {noun_of(top['site'])} is"
    claim = _claim(cell, every, run, top, 0)
    most = (
        f"Of {counted(n, 'change')} in both directions, that of {what_of(top)} "
        f"{top['direction']} most."
    )
    return replace(
        claim,
        short=f"{which} established to move the lead of {better} {where(top)}.",
        evidence=OPEN,
        importance=weight(0.4, 0.0),
        p=float(numbers(cell, "p_run").min()),
        test=f"the smallest; {claim.test}",
        details=(most, *claim.details),
    )


def _claim(cell: pd.DataFrame, every: pd.DataFrame, run: RunTables, row: Row, n: int) -> Claim:
    """A claim on a change that is one of ``n`` such, with the lead that it moves."""
    about = {name: str(row[name]) for name in ("task", "protocol", "set", "exchange")}
    what, lead = what_of(row), f"The lead is {_lead(run, row)} points."
    listed = () if brief(what, row) == what else (f"They are {what}.",)
    return Claim(
        short=put_in(what, row, is_plural=is_plural(row)),
        source=source(EFFECTS, about, intervention=str(row["intervention"])),
        details=(*listed, lead, *_also(n, cell), *named_models(run)),
        **measured(row, every),
    )


def _verb(row: Row, one: str, several: str) -> str:
    return several if is_plural(row) else one


def _lead(run: RunTables, row: Row) -> str:
    gaps = run.table(GAPS)
    gap = None if gaps is None else rows(gaps, task=row["task"], protocol=row["protocol"])
    if gap is None or gap.empty:
        return number(100 * abs(row["acc_other"] - row["acc_base"]))
    (lead,) = records(gap)
    return interval(*(100 * lead[name] for name in ("gap", "gap_low", "gap_high")))


def _points(row: Row) -> str:
    return interval(*(100 * row[name] for name in ("moved", "run_low", "run_high")))


def _also(n: int, cell: pd.DataFrame) -> tuple[str, ...]:
    """How many others of how many changes do the same."""
    tried = len(cell["intervention"].unique())
    if tried == 1 or n < 1:
        return ()
    site = str(cell["site"].iloc[0])
    if n > 1:
        return (f"It is the strongest of {n} such {counted_noun(site, n)} of {tried}.",)
    return (f"It is the only one of {tried} {counted_noun(site, tried)} that does so.",)


def greedy_findings(run: RunTables) -> list[Claim]:
    """What is brought by all steps of each search, where that is established on held-out items."""
    every = run.table(GREEDY)
    if every is None or every.empty:
        return []
    smallest, claims = Interest.of(run.facts.settings).loss, []
    for _, cell in rows(every, direction=BRINGS).groupby(["task", "protocol"], sort=True):
        sure = cell.loc[(numbers(cell, "p_run") < LEVEL) & (numbers(cell, "moved") >= smallest)]
        if sure.empty:
            continue
        top = max(records(sure), key=lambda row: row["moved"] - 1e-9 * row["step"])
        share = percent(*(top[name] for name in ("share", "share_low", "share_high")))
        several = top["step"] > 1
        order = order_of(top)
        what = f"{counted_noun(top['site'], top['step'])} {order}"
        about = {name: str(top[name]) for name in ("task", "protocol", "host")}
        fields = measured(top, every)
        fields["items"] += f" that did not choose {'them' if several else 'it'}"
        claims.append(
            Claim(
                short=put_in(what, top, is_plural=several),
                importance=weight(0.6, top["share"]),
                source=source(GREEDY, about, step=int(top["step"])),
                details=(
                    *((f"They were chosen in this order: {order}.",) if several else ()),
                    f"That is {share} of the lead.",
                    f"On the {top['n_selection']} items to choose by, it is "
                    f"{number(100 * top['moved_selection'])} points.",
                    *named_models(run),
                ),
                caveat="Other items to choose by may give another order.",
                **fields,
            )
        )
    return spaced(claims, _MOST_CHOSEN)
