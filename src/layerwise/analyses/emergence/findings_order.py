"""Sentences on the order in which capabilities emerge.

They read order tests; no test is made here.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from layerwise.ground.layer_names import COMPUTATION
from layerwise.presentation.finding import Finding, source, spaced, weight
from layerwise.presentation.rows import numbers, records, rows
from layerwise.presentation.wording import (
    counted,
    in_order,
    interval,
    p_value,
)
from layerwise.storage.run_tables import RunTables

ORDER = "order"
_LEVEL = 0.05


def orders(run: RunTables) -> list[Finding]:
    """What comes before what after Holm's correction, and what was not established."""
    order = run.table("order")
    if order is None:
        return []
    found, open_pairs = [], []
    names = in_order(zip(order["first"], order["second"], strict=True), ())
    for first, second in names:
        pair = rows(order, first=first, second=second)
        if (numbers(pair, "p_holm") < _LEVEL).any():
            found.append(_before(pair, run))
        else:
            open_pairs.append((first, second))
    return spaced(found, 3) + ([_not_established(order, open_pairs)] if open_pairs else [])


def _before(pair: pd.DataFrame, run: RunTables) -> Finding:
    sure = [row for row in records(pair) if row["p_holm"] < _LEVEL]
    best = min(sure, key=lambda row: (row["p_holm"], -abs(row["difference"])))
    flipped = best["difference"] < 0
    names = [str(best["first"]), str(best["second"])]
    earlier, later = names[::-1] if flipped else names
    bounds = (best["difference"], best["low"], best["high"])
    ahead = interval(*((-bounds[0], -bounds[2], -bounds[1]) if flipped else bounds), digits=2)
    agree = sum((row["difference"] < 0) == flipped for row in sure)
    sentence = (
        f"By {best['method']} under {best['protocol']}, {earlier} comes before {later}: its "
        f"{best['measure']} lies {ahead} of the model's depth earlier "
        f"({p_value(best['p_holm'])} after Holm's correction; "
        f"{_items(best, earlier, later, run)}); of the {counted(len(pair), 'test')} of this pair, "
        f"{agree} {'is' if agree == 1 else 'are'} significant in this direction and "
        f"{len(sure) - agree} in the other."
    )
    where = {"first": names[0], "second": names[1]}
    at = {name: str(best[name]) for name in ("protocol", "method", "measure")}
    size = weight(0.9, 3 * abs(float(best["difference"])))
    return Finding(sentence, size, ORDER, source("order", where, **at))


def _items(best: dict[str, Any], earlier: str, later: str, run: RunTables) -> str:
    emergence = run.table("emergence")
    assert emergence is not None
    keys = {name: best[name] for name in ("protocol", "method", "measure")}
    keys["axis"] = COMPUTATION
    counts = [
        int(rows(emergence, capability=name, **keys)["n_items"].iloc[0])
        for name in (earlier, later)
    ]
    return f"n = {counts[0]} and {counts[1]} items"


def _not_established(order: pd.DataFrame, pairs: list[tuple[str, str]]) -> Finding:
    named = [f"{first} and {second}" for first, second in pairs]
    mine = pd.concat([rows(order, first=first, second=second) for first, second in pairs])
    sentence = (
        f"No order of emergence is established between {'; '.join(named)}: none of "
        f"{'their' if len(pairs) > 1 else 'its'} {counted(len(mine), 'test')} is significant after "
        f"Holm's correction (smallest {p_value(float(numbers(mine, 'p_holm').min()))})."
    )
    where = {"first": [a for a, _ in pairs], "second": [b for _, b in pairs]}
    return Finding(sentence, weight(0.55, 0.0), ORDER, source("order", where))
