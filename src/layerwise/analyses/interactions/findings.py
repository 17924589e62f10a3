"""Claims on interactions: which layers cost more together than apart, which less, or that none do.

They read the table of pairs alone; what each could be mistaken for is said in it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from layerwise.presentation.claim import Claim, finding, source, spaced, weight
from layerwise.presentation.naming import name_layer
from layerwise.presentation.over_run import RATE, count_that_hold, together
from layerwise.presentation.rows import numbers, records, rows
from layerwise.presentation.wording import (
    HEAD_WORDS,
    SUBLAYER_WORDS,
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

from .costs import ACCURACY, NATS
from .tables import NATS_ALONE, OVERLAPPING, REDUNDANT

KIND = "interaction of layers"
SIGNAL = "interaction_signal"
_TABLE = "interaction_pairs"
_MOST, _MOST_NAMED = 2, 4
# Nats at which the size of an interaction counts in full for the order of sentences.
_LARGE = 2.0


def findings(run: RunTables) -> list[Claim]:
    """What the pairs of a run say, at most two sentences of each sort."""
    every = run.table(_TABLE)
    if every is None:
        return []
    pairs = rows(every, measure=NATS, signal=True)
    smallest = Interest.of(run.facts.settings).nats
    cells = [group for _, group in pairs.groupby(["task", "protocol"], sort=True)]
    found = [
        *spaced([one for cell in cells for one in _redundant(cell, every, smallest)], _MOST),
        *spaced([one for cell in cells for one in _overlapping(cell, every, smallest)], _MOST),
    ]
    return found or [_nothing(pairs, every, smallest)] if len(pairs) else []


def caveats(run: RunTables) -> list[Claim]:
    """Where no pair was removed, for want of signal; nothing where an ablation says it."""
    signal = run.table(SIGNAL)
    if signal is None or run.table("signal") is not None:
        return []
    silent = rows(signal, signal=False)
    if silent.empty:
        return []
    named = joined(
        f"{row['task']} ({row['protocol']})" for row in records(silent.head(_MOST_NAMED))
    )
    more = len(silent) - _MOST_NAMED
    others = f" and {counted(more, 'other')}" if more > 0 else ""
    sentence = (
        f"Of interactions nothing is said in {named}{others}: the intact model is not better than "
        f"blind there (n = {spread(silent['n_items'])}), and no layers were skipped."
    )
    return [finding(sentence, weight(0.3, 0.0), "no signal", source(SIGNAL, {"signal": False}))]


# What a cost beyond the sum can come from.
_EITHER = (
    "Each may do the other's work; or the model's last norm turns losses that add up into one that "
    "is larger."
)


def _redundant(cell: pd.DataFrame, every: pd.DataFrame, smallest: float) -> list[Claim]:
    """The pair of a task and protocol that costs most beyond the sum of its two."""
    chosen = _that_matter(rows(cell, verdict=REDUNDANT), smallest)
    if chosen.empty:
        return []
    free = rows(chosen, at_floor="neither")
    top = _strongest(free if len(free) else chosen)
    subject, where = pair_name(top), f"{top['task']} ({top['protocol']})"
    more = f"costs {_nats(top)} nats more than the two alone together"
    together, sure = f"Skipping both {subject} {more} in {where}", False
    if free.empty:
        claim = (
            f"{together}, but skipping {_floored(top)} alone already leaves it guessing: what is "
            "lost beyond that is how sure it is of wrong answers"
        )
    elif not _stands_out(top):
        claim = f"{together}, {_in_general(top)}"
    else:
        sure = True
        claim = (
            f"{capitalised(subject)} cost more together than apart in {where}: skipping both {more}"
        )
    sentence = f"{claim} ({_alone(top)}{_accuracy(top, every)}; {_test(cell, top, every)})."
    return [_finding(sentence, 0.75 if sure else 0.45, top, _EITHER if sure else "")]


def _overlapping(cell: pd.DataFrame, every: pd.DataFrame, smallest: float) -> list[Claim]:
    """The pair that costs least beside the sum of its two; what is at the floor comes last."""
    chosen = _that_matter(rows(cell, verdict=OVERLAPPING), smallest)
    if chosen.empty:
        return []
    free = rows(chosen, at_floor="neither")
    top = _strongest(free if len(free) else chosen)
    subject = pair_name(top)
    where = f"{top['task']} ({top['protocol']})"
    less = _nats(top, -1)
    sentence = (
        f"{capitalised(subject)} overlap in {where}: skipping both costs {less} nats less than the "
        f"two alone together{_why(top)} ({_alone(top)}{_accuracy(top, every)}; "
        f"{_test(cell, top, every)})."
    )
    return [_finding(sentence, 0.6 if len(free) else 0.45, top)]


def _nothing(pairs: pd.DataFrame, every: pd.DataFrame, smallest: float) -> Claim:
    """That no pair has a verdict, and how large interactions may be."""
    top = _strongest(pairs)
    cells = len(pairs[["task", "protocol"]].drop_duplicates())
    alone = len(rows(pairs, verdict=NATS_ALONE))
    more = (
        f"; {counted(alone, 'pair')} cost more in nats alone, as parts do that add up in the logits"
        if alone
        else ""
    )
    small = len(rows(pairs, verdict=[REDUNDANT, OVERLAPPING]))
    by = f" by {smallest:g} nats or more" if small else ""
    more += f"; {counted(small, 'pair')} {'does' if small == 1 else 'do'} by less" if small else ""
    noun = HEAD_WORDS.get(str(top["site"]), "layer")
    sentence = (
        f"No two {noun}s are established to cost more together than apart, or less{by}, in "
        f"{counted(cells, 'task-protocol pair')} with signal (n = {top['n_items']}; the strongest "
        f"interaction is {_nats(top)} nats, of {pair_name(top)} in {top['task']}, "
        f"{top['protocol']}, {together(every)}{more})."
    )
    about = {"measure": NATS, "signal": True}
    return finding(sentence, weight(0.4, 0.0), KIND, source(_TABLE, about, **_place(top)))


def _that_matter(pairs: pd.DataFrame, smallest: float) -> pd.DataFrame:
    """Pairs that interact by the smallest loss of interest or more; the tables have the others."""
    large = np.abs(numbers(pairs, "interaction")) >= smallest
    return pd.DataFrame(pairs.loc[large])


def _strongest(pairs: pd.DataFrame) -> dict[str, Any]:
    return records(pairs)[int(np.argmax(np.abs(numbers(pairs, "interaction"))))]


def _stands_out(row: dict[str, Any]) -> bool:
    """Whether a pair costs more than pairs that share one of its two; True if there are none."""
    return pd.isna(row["excess_low"]) or row["excess_low"] > 0


def _in_general(row: dict[str, Any]) -> str:
    others = number(row["interaction"] - row["excess"], 2)
    return (
        f"as pairs with one of them do in general (mean {others}): skipping more is worse there, "
        "which does not single these two out"
    )


def _why(row: dict[str, Any]) -> str:
    """What an overlap may come from."""
    if row["at_floor"] == "neither":
        return ", so part of what one gives is gone without the other"
    return (
        f", but skipping {_floored(row)} alone already leaves it guessing, with little left to lose"
    )


def _floored(row: dict[str, Any]) -> str:
    """Which of a pair alone leaves the model guessing."""
    return "either" if row["at_floor"] == "both" else part_name(row, row["at_floor"])


def _alone(row: dict[str, Any]) -> str:
    return f"alone {number(row['cost_first'], 2)} and {number(row['cost_second'], 2)}"


def _accuracy(row: dict[str, Any], every: pd.DataFrame) -> str:
    """The accuracy lost by each and by both, beside."""
    found = rows(every, measure=ACCURACY, **_place(row))
    if found.empty:
        return ""
    one = records(found)[0]
    first, second, both = (number(100 * one[f"cost_{of}"]) for of in ("first", "second", "both"))
    return f"; accuracy points lost: {first}, {second}, together {both}"


def _test(cell: pd.DataFrame, row: dict[str, Any], every: pd.DataFrame) -> str:
    of = f", the strongest such pair of {len(cell)}" if len(cell) > 1 else ""
    said = p_value(row["p_bh"]).replace("p ", "q ", 1)
    held = count_that_hold(pd.DataFrame([row]), every, RATE)
    run = f"; {held}; {together(every)}" if held else ""
    return f"{said} after Benjamini-Hochberg correction{of}{run}; n = {row['n_items']}"


def _nats(row: dict[str, Any], sign: int = 1) -> str:
    """The interaction with bounds for the run; turned round where less is told as more."""
    bounds = ("run_low", "run_high") if sign > 0 else ("run_high", "run_low")
    return interval(*(sign * row[name] for name in ("interaction", *bounds)), digits=2)


def _finding(sentence: str, top: float, row: dict[str, Any], caveat: str = "") -> Claim:
    about = {"task": row["task"], "protocol": row["protocol"]}
    magnitude = abs(row["interaction"]) / _LARGE
    place = {k: v for k, v in _place(row).items() if k not in about}
    where = source(_TABLE, about, **place)
    return finding(sentence, weight(top, magnitude), KIND, where, caveat=caveat)


def _place(row: dict[str, Any]) -> dict[str, Any]:
    """The columns that pick a pair's rows, of all measures."""
    found = {name: str(row[name]) for name in ("task", "protocol")}
    columns = ("first_layer", "first_head", "second_layer", "second_head")
    return found | {name: int(row[name]) for name in columns if not pd.isna(row[name])}


def pair_name(row: dict[str, Any]) -> str:
    """``"layers 5 and 11"``, ``"attention of layers 5 and 11"``, ``"heads 5.0 and 11.3"``."""
    named = f"{_player(row, 'first')} and {_player(row, 'second')}"
    site = str(row["site"])
    if site in HEAD_WORDS:
        return f"{HEAD_WORDS[site]}s {named}"
    return f"{_of(site)}layers {named}"


def part_name(row: dict[str, Any], which: str) -> str:
    """``"layer 5"``, ``"attention of layer 5"``, ``"head 5.0"``: one of a pair."""
    site, named = str(row["site"]), _player(row, which)
    return f"{HEAD_WORDS[site]} {named}" if site in HEAD_WORDS else f"{_of(site)}layer {named}"


def _of(site: str) -> str:
    return f"{SUBLAYER_WORDS[site]} of " if site in SUBLAYER_WORDS else ""


def _player(row: dict[str, Any], which: str) -> str:
    layer, head = name_layer(row[f"{which}_layer"]), row[f"{which}_head"]
    return layer if pd.isna(head) else f"{layer}.{int(head)}"
