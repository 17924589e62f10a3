"""Sentences on what a passage protects: the same questions closed and open book.

That the passage protects is said only where some layers lose more without it and others more with
it; else it may only make the questions easier.
"""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from layerwise.presentation.claim import Claim, Estimate, Evidence, source, spaced, weight
from layerwise.presentation.naming import name_layer
from layerwise.presentation.over_run import LEVEL, family, together, which_hold
from layerwise.presentation.rows import layers_of, numbers, records, rows
from layerwise.presentation.wording import (
    capitalised,
    counted,
    doing,
    joined,
    layer_ranges,
    number,
    p_value,
    when,
)
from layerwise.stats.effects import ALPHA
from layerwise.stats.share_tests.equivalence import Interest
from layerwise.storage.run_tables import RunTables

from .lookup import kinds_and_sites, single_layers

BOOKS = "open book"
Row = dict[str, Any]


def book_findings(run: RunTables) -> list[Claim]:
    """For each pair of tasks and protocol: what is protected, what reading needs, or neither."""
    books, pairs = run.table("books"), run.table("book_pairs")
    if books is None or pairs is None:
        return []
    layers = single_layers(books)
    if layers.empty:
        return []
    kind, site = kinds_and_sites(layers)[0]
    smallest = Interest.of(run.facts.settings).loss
    found = []
    for pair in records(rows(pairs, kind=kind, site=site)):
        at = {name: str(pair[name]) for name in ("closed", "open", "protocol", "kind", "site")}
        mine = rows(layers, **at)
        large = mine.loc[numbers(mine, "protected") >= smallest - 1e-9]
        small = mine.loc[-numbers(mine, "protected") >= smallest - 1e-9]
        sure = {"closed": rows(large, loses_more="closed"), "open": rows(small, loses_more="open")}
        some = any(map(len, sure.values()))
        found.append(_finding(pair, sure, layers, at) if some else _none(pair, mine, smallest, at))
    return spaced(found, 3)


def _finding(pair: Row, sure: dict[str, pd.DataFrame], books: pd.DataFrame, at: Row) -> Claim:
    told = "closed" if len(sure["closed"]) else "open"
    best = _best(sure[told])
    both = bool(pair["both_sorts"]) and all(map(len, sure.values()))
    shown = [best, *([_best(sure["open"])] if both else [])]
    quoted = [int(row["layer"]) for row in shown]
    over_run = all(row["p_run"] < LEVEL for row in shown)
    more, less = ("without", "with") if told == "closed" else ("with", "without")
    net, *ends = (100 * float(best[f"protected{end}"]) for end in ("", "_run_low", "_run_high"))
    low, high = sorted(ends) if told == "closed" else sorted(-end for end in ends)
    why, caveat = _why(pair, sure, both)
    unit = f"points more {more} the passage (layer {name_layer(quoted[0])})"
    return Claim(
        kind=BOOKS, importance=weight(0.95 if both else 0.6, abs(float(best["protected"]))),
        short=f"{capitalised(when(at['protocol']))}, {_doing(best)} loses more answers of "
        f"{pair['closed']} {more} the passage than {less} it"
        f"{f', layer {name_layer(quoted[1])} fewer' if both else ''}.",
        evidence=Evidence.ESTABLISHED if over_run else Evidence.IN_TABLE,
        tasks=(at["closed"], at["open"]), protocols=(at["protocol"],), layers=tuple(quoted),
        estimate=Estimate(abs(net), low, high, unit, together(books)),
        p=max(float(row["p_run" if over_run else "p_corrected"]) for row in shown),
        test=f"exact test, {family(books) if over_run else 'Holm over the layers'}",
        items=f"{int(pair['n_common'])} items right both ways",
        details=(*_kept(pair, best, told), *_margins(best), _others(sure, books), *why),
        caveat=caveat, source=source("books", at, layer=quoted),
    )  # fmt: skip


def _best(sure: pd.DataFrame) -> Row:
    return records(sure.sort_values("protected", key=abs, ascending=False, kind="stable"))[0]


def _doing(row: Row) -> str:
    return doing(str(row["kind"]), str(row["site"]), f"layer {name_layer(row['layer'])}")


def _kept(pair: Row, row: Row, told: str) -> tuple[str, str]:
    given, other = ("With", "open") if told == "closed" else ("Without", "closed")
    kept, lost = int(row[f"only_{told}"]), int(row["lost_both"])
    return (
        f"{given} the passage, {kept} of the {counted(kept + lost, 'answer')} of {pair[told]} that "
        f"{_doing(row)} loses are kept ({pair[other]}).",
        f"{counted(int(row[f'only_{other}']), 'answer')} lost the other way round.",
    )


def _margins(row: Row) -> tuple[str, ...]:
    """What the layer takes from the margin either way, which has no ceiling; not of free text."""
    if pd.isna(row["margin_closed"]):
        return ()
    closed, opened = (number(float(row[f"margin_{one}"]), 1) for one in ("closed", "open"))
    return (
        f"The margin above the best wrong option falls by {closed} nats without the passage and by "
        f"{opened} with it.",
    )


def _others(sure: dict[str, pd.DataFrame], books: pd.DataFrame) -> str:
    told = [
        f"{_layers(found)} lose{'s' * (len(found) == 1)} more {words}"
        for found, words in (
            (sure["closed"], "without the passage"), (sure["open"], "with the passage"),
        )
        if len(found)
    ]  # fmt: skip
    every = pd.concat(list(sure.values()))
    held = which_hold(every, books, lambda one: layer_ranges(layers_of(one)))
    return f"{capitalised(joined(told))}{held}."


def _layers(found: pd.DataFrame) -> str:
    return f"layer{'s' * (len(found) > 1)} {layer_ranges(layers_of(found))}"


def _why(pair: Row, sure: dict[str, pd.DataFrame], both: bool) -> tuple[tuple[str, ...], str]:
    """What speaks for protection or against it, and what must not be concluded."""
    p = f"{p_value(pair['p_holm'])}, Holm over layers and pairs of tasks of the run"
    if both:
        return (
            "Layers cross: one loses more than another without the passage and less with it "
            f"({p}).",
            "So it is neither only that the passage makes the questions easier nor that one layer "
            "matters more than another either way.",
        ), ""
    if all(map(len, sure.values())):
        return (
            f"That layers cross is not established ({p}).",
        ), "The passage may only change how easy the questions are."
    way, one = ("easier", "with") if len(sure["closed"]) else ("harder", "without")
    return (f"No layer is shown to lose more {one} the passage.",), (
        f"So it may only make the questions {way}: this does not say where knowledge is."
    )


def _none(pair: Row, mine: pd.DataFrame, smallest: float, at: Row) -> Claim:
    luck = max(float(numbers(mine, name).max()) for name in ("luck_closed", "luck_open"))
    least = math.ceil(math.log(2 * len(mine) / ALPHA) / math.log(2 - min(luck, 0.999)) - 1e-9)
    action = doing(str(pair["kind"]), str(pair["site"]), "one layer")
    return Claim(
        kind=BOOKS, evidence=Evidence.OPEN, importance=weight(0.4, 0.0), source=source("books", at),
        short=f"That the passage of {pair['open']} protects answers of {pair['closed']} is not "
        f"established {when(at['protocol'])}.",
        tasks=(at["closed"], at["open"]), protocols=(at["protocol"],),
        items=f"{int(pair['n_common'])} items right both ways",
        details=(
            f"{capitalised(action)} is not shown to lose {100 * smallest:.3g} points or more, net, "
            "of the answers one way (exact tests, Holm over "
            f"{counted(len(mine), 'layer')}).",
            f"At least {least} would have to be lost one way and none the other.",
        ),
    )  # fmt: skip
