"""Claims on interactions: what costs more together than apart, or less, or that nothing does."""

from __future__ import annotations

import numpy as np
import pandas as pd

from layerwise.presentation.claim import OPEN, Claim, Estimate, most_important, source, weight
from layerwise.presentation.over_run import RATE, run_bounds_text, run_wide_evidence
from layerwise.presentation.rows import claim_scope, numbers, records, rows
from layerwise.presentation.wording import (
    HEAD_WORDS,
    SUBLAYER_WORDS,
    count_noun,
    number,
    protocol_phrase,
)
from layerwise.stats.share_tests.equivalence import SmallestEffects
from layerwise.storage.run_tables import RunTables

from .result import Row, part_name
from .tables import NATS, NATS_ALONE, OVERLAPPING, REDUNDANT

KIND = "interaction of layers"
SIGNAL = "interaction_signal"
_TABLE = "interaction_pairs"
_MOST = 2
_TEST = "sign flips of items, resampled t and items not seen, the largest p"
# Nats at which the size of an interaction counts in full for the order of sentences.
_LARGE = 2.0
_CELL = "task-protocol pair"
_FLOOR = "but one alone leaves it guessing"


def findings(run: RunTables) -> list[Claim]:
    """Claims on the pairs of a run, at most two sentences of each sort."""
    every = run.table(_TABLE)
    pairs = pd.DataFrame() if every is None else rows(every, measure=NATS, signal=True)
    if every is None or pairs.empty:
        return []
    smallest = SmallestEffects.from_settings(run.facts.settings).nats
    large = pairs.loc[np.abs(numbers(pairs, "interaction")) >= smallest]
    claims: list[Claim] = []
    for verdict in (REDUNDANT, OVERLAPPING):
        cells = rows(large, verdict=verdict).groupby(["task", "protocol"], sort=True)
        claims += most_important(
            [_strongest_pair_claim(chosen, pairs, every) for _, chosen in cells], _MOST
        )
    return claims or [_no_interaction_claim(pairs, every, smallest)]


def caveats(run: RunTables) -> list[Claim]:
    """Caveat where no pair was removed, for want of signal; none where an ablation says it."""
    signal = run.table(SIGNAL)
    if signal is None or run.table("signal") is not None:
        return []
    silent = rows(signal, signal=False)
    if silent.empty:
        return []
    return [Claim(
        kind="no signal", evidence=OPEN, importance=weight(0.3, 0.0),
        short=f"Nothing is said of interactions in {count_noun(len(silent), _CELL)}: the "
f"intact model "
        "is not better than blind there.",
        source=source(SIGNAL, {"signal": False}), **claim_scope(silent),
    )]  # fmt: skip


def _strongest(pairs: pd.DataFrame) -> Row:
    return records(pairs)[int(np.argmax(np.abs(numbers(pairs, "interaction"))))]


def _strongest_pair_claim(chosen: pd.DataFrame, pairs: pd.DataFrame, every: pd.DataFrame) -> Claim:
    """The strongest pair of a task, protocol and verdict, those off the floor before others."""
    free = rows(chosen, at_floor="neither")
    top = _strongest(free if len(free) else chosen)
    n_pairs = len(rows(pairs, task=top["task"], protocol=top["protocol"]))
    says, caveat, worth = (_overlap_words if top["verdict"] == OVERLAPPING else _redundant)(top)
    about = {"task": top["task"], "protocol": top["protocol"]}
    place = {name: value for name, value in _place(top).items() if name not in about}
    over = f"over {count_noun(n_pairs, 'pair')} ({RATE})"
    return Claim(
        kind=KIND, importance=weight(worth, abs(top["interaction"]) / _LARGE),
        short=f"On {top['task']}, {pair_name(top)} {says}.", source=source(_TABLE, about, **place),
        layers=tuple(sorted({int(top["first_layer"]), int(top["second_layer"])})),
        estimate=_estimate(top, every), caveat=caveat,
        details=(f"It is the strongest such pair of {n_pairs}.",),
        **run_wide_evidence(top, every, _TEST, ("p_bh", over), RATE),
        **claim_scope(pd.DataFrame([top])),
    )  # fmt: skip


def _redundant(top: Row) -> tuple[str, str, float]:
    """Claim on a pair that costs more together, its caveat, and the weight of the claim."""
    cost, how = f"cost {number(top['interaction'], 2)} nats", protocol_phrase(top["protocol"])
    if top["at_floor"] != "neither":
        return f"{cost} beyond their sum {how}, {_FLOOR}", (
            f"Without {_floor_words(top)} it guesses; what is lost beyond that is how sure "
f"it is of "
            "wrong answers."
        ), 0.45  # fmt: skip
    if top["excess_low"] <= 0:  # there are others that share a layer, and it costs no more
        mean = number(top["interaction"] - top["excess"], 2)
        return f"{cost} beyond their sum {how}, like other pairs with either", (
            f"Pairs with either do so in general (mean {mean}), which does not single these two "
            "out: skipping more is worse there."
        ), 0.45  # fmt: skip
    return f"{cost} more together than apart {how}", (
        "Each may do the other's work; or the model's last norm turns losses that add up into one "
        "that is larger."
    ), 0.75  # fmt: skip


def _overlap_words(top: Row) -> tuple[str, str, float]:
    """The same of a pair that costs less together."""
    overlap = f"overlap {protocol_phrase(top['protocol'])}"
    if top["at_floor"] != "neither":
        caveat = f"Without {_floor_words(top)} it guesses, with little left to lose."
        return f"{overlap}, {_FLOOR}", caveat, 0.45
    less = f"together they cost {number(-top['interaction'], 2)} nats less than apart"
    return f"{overlap}: {less}", "Part of what one gives is gone without the other.", 0.6


def _floor_words(top: Row) -> str:
    """Layers of a pair that alone leave the model guessing."""
    which = top["at_floor"]
    return "either" if which == "both" else f"{_kind(top)} {part_name(top, which)}"


def _no_interaction_claim(pairs: pd.DataFrame, every: pd.DataFrame, smallest: float) -> Claim:
    """The claim that no pair has a verdict, with how large interactions may be."""
    top = _strongest(pairs)
    cells = len(pairs[["task", "protocol"]].drop_duplicates())
    alone = len(rows(pairs, verdict=NATS_ALONE))
    small = len(rows(pairs, verdict=[REDUNDANT, OVERLAPPING]))
    details = (
        f"In {count_noun(cells, _CELL)} with signal the strongest interaction is that of "
        f"{pair_name(top)}, on {top['task']} {protocol_phrase(top['protocol'])}.",
        f"Costs of {count_noun(alone, 'pair')} are more in nats alone, as of parts that "
f"add up in the "
        "logits." if alone else "",
        f"Costs of {count_noun(small, 'pair')} interact by less." if small else "",
    )  # fmt: skip
    by = f" by {smallest:g} nats or more" if small else ""
    return Claim(
        kind=KIND, evidence=OPEN, importance=weight(0.4, 0.0),
        short=f"No two {HEAD_WORDS.get(str(top['site']), 'layer')}s are shown to cost more or less "
        f"together than apart{by}.",
        estimate=_estimate(top, every), details=tuple(filter(None, details)),
        source=source(_TABLE, {"measure": NATS, "signal": True}, **_place(top)),
        **claim_scope(pairs),
    )  # fmt: skip


def _estimate(row: Row, every: pd.DataFrame) -> Estimate:
    """The interaction with bounds for the run."""
    value, low, high = (row[name] for name in ("interaction", "run_low", "run_high"))
    unit = "nats beyond the sum of the two alone"
    return Estimate(value, low, high, unit, run_bounds_text(every), 2)


def _place(row: Row) -> Row:
    """The columns that pick a pair's rows, of all measures."""
    place = {name: str(row[name]) for name in ("task", "protocol")}
    columns = ("first_layer", "first_head", "second_layer", "second_head")
    return place | {name: int(row[name]) for name in columns if not pd.isna(row[name])}


def pair_name(row: Row) -> str:
    """``"layers 5 and 11"``, ``"attention of layers 5 and 11"``, ``"heads 5.0 and 11.3"``."""
    return f"{_kind(row)}s {part_name(row, 'first')} and {part_name(row, 'second')}"


def _kind(row: Row) -> str:
    """``"layer"``, ``"attention of layer"`` or ``"head"``."""
    site = str(row["site"])
    sublayer = f"{SUBLAYER_WORDS[site]} of " if site in SUBLAYER_WORDS else ""
    return HEAD_WORDS.get(site, f"{sublayer}layer")
