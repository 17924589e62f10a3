"""Sentences on removal: how many layers can go before held-out items show a significant loss.

The items that layers were selected by support no sentence: there the best of many looks too good.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from layerwise.presentation.claim import Claim, finding, source, spaced, weight
from layerwise.presentation.naming import name_layer
from layerwise.presentation.over_run import family, n_tests
from layerwise.presentation.rows import records, rows
from layerwise.presentation.wording import (
    CAPABILITY_ORDER,
    PROTOCOL_ORDER,
    counted,
    in_order,
    interval,
    joined,
    layer_ranges,
    p_value,
    percent,
)
from layerwise.storage.run_tables import RunTables

from .tables import BLOCKS, HELD_OUT, WAYS

REMOVAL = "removal"
HOW = {
    "greedy": "one by one, greedily",
    "block": "as the best block of each size",
    "effect": "one by one, by the effect of each alone",
    "deep": "one by one, from the last on",
    "angular": "as the block of each size with the least angular distance",
    "influence": "one by one, by block influence",
}


def several_orders(run: RunTables) -> bool:
    """Whether a run has several orders or protocols of removal."""
    removal = run.table("removal_steps")
    assert removal is not None
    return len(removal.groupby(["by", "protocol"])) > 1


def removals(run: RunTables) -> list[Claim]:
    """The first significant loss on held-out items: per task, or per order if there are several."""
    removal = run.table("removal_steps")
    removal_curves = run.table("removal_curves")
    if removal is None:
        return []
    if several_orders(run):
        return _by_order(removal_curves)
    held = rows(removal, split=HELD_OUT, signal=True)
    tasks = in_order(held["task"], ())
    return spaced([_removal(rows(held, task=task), removal) for task in tasks], 2)


def _over_run(row: dict[str, Any], every: pd.DataFrame) -> str:
    """The p-value over the whole run; nothing for tables of earlier versions."""
    if not n_tests(every):
        return ""
    return f", {p_value(row['p_run'])} {family(every)}"


def _removal(mine: pd.DataFrame, every: pd.DataFrame) -> Claim:
    steps = records(mine.sort_values(by="step"))
    losses = [row for row in steps if row["significant"] and row["acc_diff"] > 0]
    last = losses[0] if losses else steps[-1]
    kept = [row for row in steps if row["step"] < last["step"]] if losses else steps
    how = "one by one, greedily," if last["by"] == "greedy" else HOW[last["by"]]
    how = "as a block" if last["by"] == "block" else how
    start = f"With layers removed {how} under {last['protocol']}, held-out items of {last['task']}"
    if losses:
        before = f"; without {_which(kept[-1])} the loss was {_points(kept[-1])}" if kept else ""
        told = (
            f"show the first significant loss without {counted(last['step'], 'layer')}: "
            f"{_points(last)} ({_test(last, every)}){before}."
        )
    else:
        told = (
            f"show no significant loss up to {counted(last['step'], 'layer')}: without "
            f"{_which(last)} it is {_points(last)} ({_test(last, every)})."
        )
    where = {"task": str(last["task"]), "protocol": str(last["protocol"]), "split": HELD_OUT}
    size = weight(0.8, len(kept) / 10)
    return finding(f"{start} {told}", size, REMOVAL, source("removal_steps", where,
                   step=int(last["step"])))  # fmt: skip


def _by_order(curves: pd.DataFrame | None) -> list[Claim]:
    """Per capability and order, how many layers can go under each protocol."""
    if curves is None:
        return []
    found = []
    for capability in in_order(curves["capability"], CAPABILITY_ORDER):
        for by in in_order(curves["by"], WAYS):
            mine = rows(curves, capability=capability, by=by)
            protocols = in_order(mine["protocol"], PROTOCOL_ORDER)
            if protocols:
                steps = {p: records(rows(mine, protocol=p)) for p in protocols}
                found.append(_order(steps, curves))
    return spaced(found, 3)


def _order(steps: dict[str, list[dict[str, Any]]], every: pd.DataFrame) -> Claim:
    """One order: the steps under each protocol, in order."""
    told, numbers = [], []
    for protocol, listed in steps.items():
        ranked = sorted(listed, key=lambda row: row["step"])
        sure = [row for row in ranked if row["significant"] and row["share_lost"] > 0]
        last = sure[0] if sure else ranked[-1]
        n = last["step"] - 1 if sure else last["step"]
        numbers.append(n)
        share = percent(last["share_lost"], last["share_low"], last["share_high"])
        rest = f"{p_value(last['p_holm'])}{_over_run(last, every)}, n = {last['n_items']}"
        told.append(
            f"under {protocol} {counted(n, 'layer')} can go before accuracy drops significantly "
            f"(without {last['step']} {share} of the above-floor accuracy are lost, {rest})"
            if sure
            else f"under {protocol} no drop is significant up to {counted(n, 'layer')} ({share} "
            f"of the above-floor accuracy are lost, {rest})"
        )
    row = next(iter(steps.values()))[0]
    sentence = (
        f"With layers removed {HOW[row['by']]}, on held-out items of {row['capability']}: "
        f"{'; '.join(told)} (Holm's correction over the steps)."
    )
    apart = (max(numbers) - min(numbers)) / 10 if len(numbers) > 1 else max(numbers) / 20
    where = {"capability": str(row["capability"]), "by": str(row["by"])}
    return finding(sentence, weight(0.8, apart), REMOVAL, source("removal_curves", where))


def _which(row: dict[str, Any]) -> str:
    layers = row["layers"]
    named = layer_ranges(layers) if row["by"] in BLOCKS else joined(map(name_layer, layers))
    return f"{'layer' if len(layers) == 1 else 'layers'} {named}"


def _points(row: dict[str, Any]) -> str:
    bounds = (100 * row[name] for name in ("acc_diff", "acc_diff_low", "acc_diff_high"))
    return f"{interval(*bounds)} accuracy points"


def _test(row: dict[str, Any], every: pd.DataFrame) -> str:
    p = f"{p_value(row['p_holm'])} after Holm's correction over the steps"
    return f"{p}{_over_run(row, every)}, n = {row['n_items']}"
