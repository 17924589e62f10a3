"""Claims on interactions: which layers cost more together than apart, which less, or that none do.

They read the table of pairs alone; what each could be mistaken for is said in it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from layerwise.presentation.claim import OPEN, Claim, Estimate, source, spaced, weight
from layerwise.presentation.naming import name_layer
from layerwise.presentation.over_run import RATE, evidence_for, together
from layerwise.presentation.rows import asked_of, numbers, records, rows
from layerwise.presentation.wording import (
    HEAD_WORDS,
    SUBLAYER_WORDS,
    counted,
    joined,
    number,
    spread,
    when,
)
from layerwise.stats.share_tests.equivalence import Interest
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
    claims = [
        *spaced([claim for cell in cells for claim in _redundant(cell, every, smallest)], _MOST),
        *spaced([claim for cell in cells for claim in _overlapping(cell, every, smallest)], _MOST),
    ]
    return claims or [_nothing(pairs, every, smallest)] if len(pairs) else []


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
    return [Claim(
        kind="no signal", evidence=OPEN, importance=weight(0.3, 0.0),
        short=f"Nothing is said of interactions in {counted(len(silent), _CELL)}: the intact model "
        "is not better than blind there.",
        details=(f"No layers were skipped in {named}{others}.",),
        items=f"{spread(silent['n_items'])} items", source=source(SIGNAL, {"signal": False}),
    )]  # fmt: skip


_CELL = "task-protocol pair"
_FLOOR = "but one alone leaves it guessing"


def _redundant(cell: pd.DataFrame, every: pd.DataFrame, smallest: float) -> list[Claim]:
    """The pair of a task and protocol that costs most beyond the sum of its two."""
    top = _top(cell, REDUNDANT, smallest)
    if top is None:
        return []
    cost = f"cost {number(top['interaction'], 2)} nats"
    beyond = f"{cost} beyond their sum {when(top['protocol'])}"
    if top["at_floor"] != "neither":
        says, caveat = f"{beyond}, {_FLOOR}", (
            f"Without {_floored(top)} it guesses; what is lost beyond that is how sure it is of "
            "wrong answers."
        )  # fmt: skip
    elif not _stands_out(top):
        says, caveat = f"{beyond}, like other pairs with either", (
            f"Pairs with either do so in general (mean "
            f"{number(top['interaction'] - top['excess'], 2)}), which does not single these two "
            "out: skipping more is worse there."
        )  # fmt: skip
    else:
        says = f"{cost} more together than apart {when(top['protocol'])}"
        either = "Each may do the other's work; or the model's last norm turns losses that add up "
        return [_claim(says, 0.75, top, cell, every, f"{either}into one that is larger.")]
    return [_claim(says, 0.45, top, cell, every, caveat)]


def _overlapping(cell: pd.DataFrame, every: pd.DataFrame, smallest: float) -> list[Claim]:
    """The pair that costs least beside the sum of its two; what is at the floor comes last."""
    top = _top(cell, OVERLAPPING, smallest)
    if top is None:
        return []
    overlap = f"overlap {when(top['protocol'])}"
    if top["at_floor"] != "neither":
        caveat = f"Without {_floored(top)} it guesses, with little left to lose."
        return [_claim(f"{overlap}, {_FLOOR}", 0.45, top, cell, every, caveat)]
    less = f"together they cost {number(-top['interaction'], 2)} nats less than apart"
    caveat = "Part of what one gives is gone without the other."
    return [_claim(f"{overlap}: {less}", 0.6, top, cell, every, caveat)]


def _top(cell: pd.DataFrame, verdict: str, smallest: float) -> dict[str, Any] | None:
    """The strongest pair of a verdict that matters, those off the floor before those at it."""
    chosen = rows(cell, verdict=verdict)
    chosen = pd.DataFrame(chosen.loc[np.abs(numbers(chosen, "interaction")) >= smallest])
    free = rows(chosen, at_floor="neither")
    return None if chosen.empty else _strongest(free if len(free) else chosen)


def _nothing(pairs: pd.DataFrame, every: pd.DataFrame, smallest: float) -> Claim:
    """That no pair has a verdict, and how large interactions may be."""
    top = _strongest(pairs)
    cells = len(pairs[["task", "protocol"]].drop_duplicates())
    alone = len(rows(pairs, verdict=NATS_ALONE))
    small = len(rows(pairs, verdict=[REDUNDANT, OVERLAPPING]))
    details = (
        f"In {counted(cells, _CELL)} with signal the strongest interaction is that of "
        f"{pair_name(top)}, on {top['task']} {when(top['protocol'])}.",
        f"Costs of {counted(alone, 'pair')} are more in nats alone, as of parts that add up in the "
        "logits." if alone else "",
        f"Costs of {counted(small, 'pair')} interact by less." if small else "",
    )  # fmt: skip
    by = f" by {smallest:g} nats or more" if small else ""
    return Claim(
        kind=KIND, evidence=OPEN, importance=weight(0.4, 0.0),
        short=f"No two {HEAD_WORDS.get(str(top['site']), 'layer')}s are shown to cost more or less "
        f"together than apart{by}.",
        estimate=_estimate(top, every), details=tuple(filter(None, details)),
        source=source(_TABLE, {"measure": NATS, "signal": True}, **_place(top)), **asked_of(pairs),
    )  # fmt: skip


def _strongest(pairs: pd.DataFrame) -> dict[str, Any]:
    return records(pairs)[int(np.argmax(np.abs(numbers(pairs, "interaction"))))]


def _stands_out(row: dict[str, Any]) -> bool:
    """Whether a pair costs more than pairs that share one of its two; True if there are none."""
    return pd.isna(row["excess_low"]) or row["excess_low"] > 0


def _floored(row: dict[str, Any]) -> str:
    """Which of a pair alone leaves the model guessing."""
    return "either" if row["at_floor"] == "both" else part_name(row, row["at_floor"])


def _accuracy(row: dict[str, Any], every: pd.DataFrame) -> str:
    """The accuracy lost by each and by both, beside."""
    table = rows(every, measure=ACCURACY, **_place(row))
    if table.empty:
        return ""
    costs = records(table)[0]
    first, second, both = (number(100 * costs[f"cost_{of}"]) for of in ("first", "second", "both"))
    return f"Accuracy points lost: {first}, {second}, together {both}."


def _estimate(row: dict[str, Any], every: pd.DataFrame) -> Estimate:
    """The interaction with bounds for the run."""
    value, low, high = (row[name] for name in ("interaction", "run_low", "run_high"))
    unit = "nats beyond the sum of the two alone"
    return Estimate(value, low, high, unit, together(every), 2)


def _claim(
    says: str, top: float, row: dict[str, Any], cell: pd.DataFrame, every: pd.DataFrame,
    caveat: str,
) -> Claim:  # fmt: skip
    """A claim on one pair, the strongest of its sort in a task and protocol."""
    alone = joined(number(row[f"cost_{which}"], 2) for which in ("first", "second"))
    of = f"It is the strongest such pair of {len(cell)}." if len(cell) > 1 else ""
    details = (f"Alone they cost {alone} nats.", _accuracy(row, every), of)
    about = {"task": row["task"], "protocol": row["protocol"]}
    place = {k: v for k, v in _place(row).items() if k not in about}
    over = f"over {counted(len(cell), 'pair')} ({RATE})"
    return Claim(
        kind=KIND, importance=weight(top, abs(row["interaction"]) / _LARGE),
        short=f"On {row['task']}, {pair_name(row)} {says}.", source=source(_TABLE, about, **place),
        layers=tuple(sorted({int(row["first_layer"]), int(row["second_layer"])})),
        estimate=_estimate(row, every), caveat=caveat,
        details=tuple(filter(None, details)),
        **evidence_for(row, every, "sign flips of items", ("p_bh", over), RATE),
        **asked_of(pd.DataFrame([row])),
    )  # fmt: skip


def _place(row: dict[str, Any]) -> dict[str, Any]:
    """The columns that pick a pair's rows, of all measures."""
    place = {name: str(row[name]) for name in ("task", "protocol")}
    columns = ("first_layer", "first_head", "second_layer", "second_head")
    return place | {name: int(row[name]) for name in columns if not pd.isna(row[name])}


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
