"""A sentence on single heads: which one a task needs most, or that none is established.

They read effects tables only, and say nothing of tasks without signal.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from layerwise.presentation.claim import Claim, finding, source, weight
from layerwise.presentation.items import items_of
from layerwise.presentation.naming import name_layer
from layerwise.presentation.over_run import RATE, count_that_hold, together
from layerwise.presentation.rows import numbers, records, rows
from layerwise.presentation.wording import (
    HEAD_WORDS,
    capitalised,
    counted,
    doing,
    number,
    p_value,
)
from layerwise.stats.interest import Interest
from layerwise.storage.run_tables import RunTables

from .effect_words import points
from .lookup import effects_of_heads, head_ablations, head_effects_of

HEADS = "heads"


def needed_heads(run: RunTables) -> list[Claim]:
    """The head whose loss costs most, or what the intervals allow where none is significant."""
    found = []
    for kind, site in head_ablations(run)[:1]:
        mine = head_effects_of(run, kind, site, signal=True)
        losses = pd.DataFrame(rows(mine, significant=True).query("acc_diff > 0"))
        every, smallest = effects_of_heads(run), Interest.of(run.facts.settings).loss
        large = (numbers(losses, "acc_diff") >= smallest - 1e-9).any()
        if len(mine) and every is not None:
            found.append(_largest(mine, losses, every) if large else _none(mine, every, smallest))
    return found


def _largest(mine: pd.DataFrame, losses: pd.DataFrame, every: pd.DataFrame) -> Claim:
    order = ["share_lost", "share_low", "layer", "head"]
    ranked = losses.sort_values(by=order, ascending=[False, False, True, True], kind="stable")
    top = records(ranked)[0]
    cell = {name: str(top[name]) for name in ("task", "protocol", "kind", "site")}
    noun, there = HEAD_WORDS[cell["site"]], rows(mine, **cell)
    sentence = (
        f"{capitalised(_doing(top, name_of(top)))} costs {points(top)} of {top['task']} under "
        f"{top['protocol']}, {number(100 * top['share_lost'])} % of those above the floor "
        f"({together(every)}; n = {items_of(top)}; {p_value(top['p_bh'])} after "
        f"Benjamini-Hochberg correction over {counted(len(there), noun)}), the largest loss found "
        f"from a single {noun}; {noun}s with a significant loss there: {len(rows(losses, **cell))}"
        f"{_held(rows(losses, **cell), every)}."
    )
    size = weight(0.8, float(np.nan_to_num(top["share_low"])))
    at = {"layer": int(top["layer"]), "head": int(top["head"])}
    return finding(sentence, size, HEADS, source("effects", cell, **at))


def _held(losses: pd.DataFrame, every: pd.DataFrame) -> str:
    told = count_that_hold(losses, every, RATE)
    return f"; {told}" if told else ""


def _none(mine: pd.DataFrame, every: pd.DataFrame, smallest: float) -> Claim:
    worst = records(mine)[int(np.argmax(numbers(mine, "acc_diff")))]
    noun = HEAD_WORDS[str(worst["site"])]
    pairs = len(mine[["task", "protocol"]].drop_duplicates())
    sentence = (
        f"No single {noun} is established to matter: {_doing(worst, f'any one {noun}')} has a "
        f"significant loss of {100 * smallest:.3g} points or more after Benjamini-Hochberg "
        f"correction in none of the "
        f"{counted(pairs, 'task-protocol pair')} with signal (n = {items_of(mine)}; "
        f"largest loss {points(worst)}, {name_of(worst)}, {worst['task']}, {worst['protocol']}, "
        f"{together(every)})."
    )
    where = {"kind": str(worst["kind"]), "site": str(worst["site"]), "signal": True}
    at = {name: int(worst[name]) for name in ("layer", "head")}
    return finding(sentence, weight(0.5, 0.0), HEADS, source("effects", where, **at))


def name_of(row: dict[str, Any]) -> str:
    """``"head 7.3"``: the kind of head, its layer and its number."""
    return f"{HEAD_WORDS[row['site']]} {name_layer(row['layer'])}.{row['head']}"


def _doing(row: dict[str, Any], where: str) -> str:
    return doing(str(row["kind"]), str(row["site"]), where)
