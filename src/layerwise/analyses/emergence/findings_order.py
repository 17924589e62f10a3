"""Sentences on the order in which capabilities emerge.

They read order tests; no test is made here. An order is told where all significant tests of a pair
say the same one; centres of mass are not tested. Of tables that an earlier version wrote, with
tests that did not keep their level, no order is told.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from layerwise.ground.layer_names import COMPUTATION
from layerwise.presentation.finding import Finding, source, spaced, weight
from layerwise.presentation.over_run import after_holm
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
Row = dict[str, Any]


def orders(run: RunTables) -> list[Finding]:
    """What comes before what, where tests contradict each other, and what was not established."""
    order = run.table("order")
    if order is None:
        return []
    order = pd.DataFrame(order.loc[order["significant"].notna()])
    found, contrary, open_pairs = [], [], []
    names = in_order(zip(order["first"], order["second"], strict=True), ())
    for first, second in names:
        pair = rows(order, first=first, second=second)
        sure = records(rows(pair, significant=True))
        if not sure:
            open_pairs.append((first, second))
        elif len({row["difference"] < 0 for row in sure}) > 1:
            contrary.append(_contrary(sure, len(pair), len(order)))
        else:
            found.append(_before(pair, sure, run, len(order)))
    return [
        *spaced(found, 3),
        *spaced(contrary, 3),
        *([_not_established(order, open_pairs)] if open_pairs else []),
    ]


def _contrary(sure: list[Row], n_tests: int, n_run: int) -> Finding:
    """The clearest test of either order."""
    clearest = [
        min((row for row in sure if (row["difference"] < 0) == later), key=lambda r: r["p_holm"])
        for later in (False, True)
    ]
    first, second = str(sure[0]["first"]), str(sure[0]["second"])
    told = [
        f"{before} comes before {after} by {row['method']} under {row['protocol']} "
        f"({row['measure']}, {p_value(row['p_holm'])} {after_holm(n_run)})"
        for row, (before, after) in zip(clearest, ((first, second), (second, first)), strict=True)
    ]
    sentence = (
        f"Whether {first} or {second} comes first depends on how it is measured: {told[0]}, and "
        f"{told[1]}; {len(sure)} of {counted(n_tests, 'test')} of this pair are significant."
    )
    return Finding(sentence, weight(0.7, 0.0), ORDER,
                   source("order", {"first": first, "second": second}))  # fmt: skip


def _before(pair: pd.DataFrame, sure: list[Row], run: RunTables, n_run: int) -> Finding:
    best = min(sure, key=lambda row: (row["p_holm"], -abs(row["difference"])))
    flipped = best["difference"] < 0
    names = [str(best["first"]), str(best["second"])]
    earlier, later = names[::-1] if flipped else names
    bounds = (best["difference"], best["low"], best["high"])
    ahead = interval(*((-bounds[0], -bounds[2], -bounds[1]) if flipped else bounds), digits=2)
    sentence = (
        f"By {best['method']} under {best['protocol']}, {earlier} comes before {later}: its "
        f"{best['measure']} lies {ahead} of the model's depth earlier "
        f"({p_value(best['p_holm'])} {after_holm(n_run)}; "
        f"{_items(best, earlier, later, run)}); of the {counted(len(pair), 'test')} of this pair, "
        f"{len(sure)} {'is' if len(sure) == 1 else 'are'} significant, "
        f"{'in' if len(sure) == 1 else 'all in'} this direction."
    )
    where = {"first": names[0], "second": names[1]}
    at = {name: str(best[name]) for name in ("protocol", "method", "measure")}
    size = weight(0.9, 3 * abs(float(best["difference"])))
    return Finding(sentence, size, ORDER, source("order", where, **at))


def _items(best: Row, earlier: str, later: str, run: RunTables) -> str:
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
    least = float(numbers(mine, "p_holm").min())
    small = " with a difference large enough to be of interest" if least < _LEVEL else ""
    sentence = (
        f"No order of emergence is established between {'; '.join(named)}: none of "
        f"{'their' if len(pairs) > 1 else 'its'} {counted(len(mine), 'test')} is significant "
        f"{after_holm(len(order))}{small} (smallest {p_value(least)})."
    )
    where = {"first": [a for a, _ in pairs], "second": [b for _, b in pairs]}
    return Finding(sentence, weight(0.55, 0.0), ORDER, source("order", where))
