"""A sentence on single heads: which one a task needs most, or that none is established.

They read effects tables only, and say nothing of tasks without signal.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from layerwise.presentation.claim import OPEN, Claim, Estimate, source, weight
from layerwise.presentation.items import items_of
from layerwise.presentation.naming import name_layer
from layerwise.presentation.over_run import RATE, count_that_hold, evidence_for, together
from layerwise.presentation.rows import numbers, records, rows
from layerwise.presentation.wording import (
    HEAD_WORDS,
    capitalised,
    counted,
    doing,
    number,
    share_lost,
    when,
)
from layerwise.stats.share_tests.equivalence import Interest
from layerwise.storage.run_tables import RunTables

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
    noun, there, here = HEAD_WORDS[cell["site"]], rows(mine, **cell), rows(losses, **cell)
    over_run = count_that_hold(here, every, RATE)
    within = f"{RATE} over {counted(len(there), noun)}"
    return Claim(
        kind=HEADS, importance=weight(0.8, float(np.nan_to_num(top["share_low"]))),
        short=f"{capitalised(_doing(top, name_of(top)))} costs {number(100 * top['acc_diff'])} "
        f"accuracy points of {top['task']} {when(cell['protocol'])}, the largest loss of any "
        f"{noun}.",
        tasks=(cell["task"],), protocols=(cell["protocol"],), layers=(int(top["layer"]),),
        estimate=_points(top, every),
        **evidence_for(top, every, "exact McNemar test", ("p_bh", within), RATE),
        items=f"items: {items_of(top)}",
        details=(
            f"That is {share_lost(top['share_lost'])} of the score above the floor.",
            f"{capitalised(noun)}s with a significant loss there: {len(here)}"
            f"{f'; {over_run}' if over_run else ''}.",
        ),
        source=source("effects", cell, layer=int(top["layer"]), head=int(top["head"])),
    )  # fmt: skip


def _points(row: dict[str, Any], every: pd.DataFrame) -> Estimate:
    value, low, high = (100 * float(row[f"acc_diff{end}"]) for end in ("", "_run_low", "_run_high"))
    unit = f"accuracy points of {row['task']} under {row['protocol']} without {name_of(row)}"
    return Estimate(value, low, high, unit, together(every))


def _none(mine: pd.DataFrame, every: pd.DataFrame, smallest: float) -> Claim:
    worst = records(mine)[int(np.argmax(numbers(mine, "acc_diff")))]
    noun = HEAD_WORDS[str(worst["site"])]
    pairs = len(mine[["task", "protocol"]].drop_duplicates())
    where = {"kind": str(worst["kind"]), "site": str(worst["site"]), "signal": True}
    at = {name: int(worst[name]) for name in ("layer", "head")}
    return Claim(
        kind=HEADS, evidence=OPEN, importance=weight(0.5, 0.0),
        short=f"No single {noun} is established to matter.", source=source("effects", where, **at),
        estimate=_points(worst, every), items=f"items: {items_of(mine)}",
        details=(
            f"{capitalised(_doing(worst, f'any one {noun}'))} has a significant loss of "
            f"{100 * smallest:.3g} points or more in none of the "
            f"{counted(pairs, 'task-protocol pair')} with signal (Benjamini-Hochberg).",
            f"The largest loss is that without {name_of(worst)}.",
        ),
    )  # fmt: skip


def name_of(row: dict[str, Any]) -> str:
    """``"head 7.3"``: the kind of head, its layer and its number."""
    return f"{HEAD_WORDS[row['site']]} {name_layer(row['layer'])}.{row['head']}"


def _doing(row: dict[str, Any], where: str) -> str:
    return doing(str(row["kind"]), str(row["site"]), where)
