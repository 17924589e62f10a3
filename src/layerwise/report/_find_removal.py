"""Sentences on removal: how many layers can go before held-out items show a significant loss.

The items that layers were selected by support no sentence: there the best of many looks too good.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from layerwise._removal_tables import GREEDY, HELD_OUT
from layerwise.report.finding import Finding, source, spaced, weight
from layerwise.report.rows import records, rows
from layerwise.report.run import Run
from layerwise.report.wording import counted, in_order, interval, joined, layer_ranges, p_value

REMOVAL = "removal"


def removals(run: Run) -> list[Finding]:
    """Per task with signal on its held-out items, the first significant loss."""
    if run.removal is None:
        return []
    held = rows(run.removal, split=HELD_OUT, signal=True)
    return spaced([_removal(rows(held, task=task)) for task in in_order(held["task"], ())], 2)


def _removal(mine: pd.DataFrame) -> Finding:
    steps = records(mine.sort_values(by="step"))
    losses = [row for row in steps if row["significant"] and row["acc_diff"] > 0]
    last = losses[0] if losses else steps[-1]
    kept = [row for row in steps if row["step"] < last["step"]] if losses else steps
    how = "one by one, greedily," if last["by"] == GREEDY else "as a block"
    start = f"With layers removed {how} under {last['protocol']}, held-out items of {last['task']}"
    if losses:
        before = f"; without {_which(kept[-1])} the loss was {_points(kept[-1])}" if kept else ""
        told = (
            f"show the first significant loss without {counted(last['step'], 'layer')}: "
            f"{_points(last)} ({_test(last)}){before}."
        )
    else:
        told = (
            f"show no significant loss up to {counted(last['step'], 'layer')}: without "
            f"{_which(last)} it is {_points(last)} ({_test(last)})."
        )
    where = {"task": str(last["task"]), "protocol": str(last["protocol"]), "split": HELD_OUT}
    size = weight(0.8, len(kept) / 10)
    return Finding(f"{start} {told}", size, REMOVAL, source("removal_steps", where,
                   step=int(last["step"])))  # fmt: skip


def _which(row: dict[str, Any]) -> str:
    layers = row["layers"]
    named = joined(map(str, layers)) if row["by"] == GREEDY else layer_ranges(layers)
    return f"{'layer' if len(layers) == 1 else 'layers'} {named}"


def _points(row: dict[str, Any]) -> str:
    bounds = (100 * row[name] for name in ("acc_diff", "acc_diff_low", "acc_diff_high"))
    return f"{interval(*bounds)} accuracy points"


def _test(row: dict[str, Any]) -> str:
    return f"{p_value(row['p_holm'])} after Holm's correction over the steps, n = {row['n_items']}"
