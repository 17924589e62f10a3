"""Sentences on what a passage protects: the same questions closed and open book.

That the passage protects is said only where some layers lose more without it and others more with
it; else it may only make the questions easier.
"""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from layerwise.presentation.claim import Claim, finding, source, spaced, weight
from layerwise.presentation.naming import name_layer
from layerwise.presentation.over_run import together, which_hold
from layerwise.presentation.rows import layers_of, numbers, records, rows
from layerwise.presentation.wording import (
    capitalised,
    counted,
    doing,
    interval,
    joined,
    layer_ranges,
    number,
    p_value,
)
from layerwise.stats.effects import ALPHA
from layerwise.stats.interest import Interest
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
    sentence = (
        f"{_kept(pair, best, told)} {_counts(pair, best, books, told)}"
        f"{_margins(best)}. {_others(sure, books)}. "
        f"{_why(pair, sure, both)}"
    )
    quoted = [best["layer"], *([_best(sure["open"])["layer"]] if both else [])]
    size = weight(0.95 if both else 0.6, abs(float(best["protected"])))
    return finding(sentence, size, BOOKS, source("books", at, layer=[int(one) for one in quoted]))


def _best(sure: pd.DataFrame) -> Row:
    return records(sure.sort_values("protected", key=abs, ascending=False, kind="stable"))[0]


def _kept(pair: Row, row: Row, told: str) -> str:
    given, other = ("With", "open") if told == "closed" else ("Without", "closed")
    kept, lost = int(row[f"only_{told}"]), int(row["lost_both"])
    action = doing(str(row["kind"]), str(row["site"]), f"layer {name_layer(row['layer'])}")
    return (
        f"{given} the passage, {kept} of the {counted(kept + lost, 'answer')} of {pair[told]} that "
        f"{action} loses under {pair['protocol']} are kept ({pair[other]}),"
    )


def _counts(pair: Row, row: Row, books: pd.DataFrame, told: str) -> str:
    other = int(row["only_open" if told == "closed" else "only_closed"])
    ends = ("protected", "protected_run_low", "protected_run_high")
    net = [float(row[name]) for name in ends]
    if told == "open":
        net = [-net[0], -net[2], -net[1]]
    return (
        f"and {other} lost the other way round, of {int(pair['n_common'])} items right both ways "
        f"({interval(100 * net[0], 100 * net[1], 100 * net[2])} points of them, {together(books)}; "
        f"{p_value(row['p_corrected'])} after Holm's correction over the layers)"
    )


def _margins(row: Row) -> str:
    """What the layer takes from the margin either way, which has no ceiling; not of free text."""
    if pd.isna(row["margin_closed"]):
        return ""
    closed, opened = (number(float(row[f"margin_{one}"]), 1) for one in ("closed", "open"))
    return (
        f"; the margin above the best wrong option falls by {closed} nats without the passage and "
        f"by {opened} with it"
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
    return capitalised(joined(told)) + held


def _layers(found: pd.DataFrame) -> str:
    return f"layer{'s' * (len(found) > 1)} {layer_ranges(layers_of(found))}"


def _why(pair: Row, sure: dict[str, pd.DataFrame], both: bool) -> str:
    if both:
        return (
            "So it is neither only that the passage makes the questions easier nor that one layer "
            "matters more than another either way: layers turn round, of which one loses more than "
            f"the other without the passage and less with it ({p_value(pair['p_holm'])} after "
            "Holm's correction over layers and the pairs of tasks of the run)."
        )
    if all(map(len, sure.values())):
        return (
            "That layers turn round, of which one loses more than the other without the passage "
            f"and less with it, is not established over the run ({p_value(pair['p_holm'])}, Holm "
            "over layers and pairs of tasks), so the passage may only change how easy the "
            "questions are."
        )
    way, one = ("easier", "with") if len(sure["closed"]) else ("harder", "without")
    return (
        f"No layer is shown to lose more {one} the passage, so that it may only make the questions "
        f"{way}: this does not say where knowledge is."
    )


def _none(pair: Row, mine: pd.DataFrame, smallest: float, at: Row) -> Claim:
    n_layers = len(mine)
    luck = max(float(numbers(mine, name).max()) for name in ("luck_closed", "luck_open"))
    least = math.ceil(math.log(2 * n_layers / ALPHA) / math.log(2 - min(luck, 0.999)) - 1e-9)
    action = doing(str(pair["kind"]), str(pair["site"]), "one layer")
    sentence = (
        f"That the passage of {pair['open']} protects answers of {pair['closed']} under "
        f"{pair['protocol']} is not established: of {int(pair['n_common'])} items right both ways, "
        f"{action} is not shown to lose {100 * smallest:.3g} points or more of them without the "
        "passage that are kept with it, net, or the other way round (exact tests, Holm's "
        f"correction over {counted(n_layers, 'layer')}); at least {least} would have to be lost "
        "one way and none the other."
    )
    return finding(sentence, weight(0.4, 0.0), BOOKS, source("books", at))
