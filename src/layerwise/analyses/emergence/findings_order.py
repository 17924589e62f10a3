"""Sentences on the order in which capabilities emerge.

They read order tests; no test is made here. An order is told where all significant tests of a pair
say the same one; centres of mass are not tested. Of tables that an earlier version wrote, with
tests that did not keep their level, no order is told.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from layerwise.ground.layer_names import COMPUTATION
from layerwise.presentation.claim import Claim, finding, source, spaced, weight
from layerwise.presentation.over_run import after_holm
from layerwise.presentation.rows import numbers, records, rows
from layerwise.presentation.wording import (
    counted,
    in_order,
    interval,
    joined,
    p_value,
)
from layerwise.storage.run_tables import RunTables

from .difficulty_words import beside_order, beside_orders

ORDER = "order"
_LEVEL = 0.05
Row = dict[str, Any]


def orders(run: RunTables) -> list[Claim]:
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
            contrary.append(_contrary(sure, len(pair), len(order), run))
        else:
            found.append(_before(pair, sure, run, len(order)))
    return [
        *spaced(found, 3),
        *spaced(contrary, 3),
        *([_not_established(order, open_pairs)] if open_pairs else []),
    ]


def _contrary(sure: list[Row], n_tests: int, n_run: int, run: RunTables) -> Claim:
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
        f"{beside_orders(clearest, run)}"
    )
    return finding(sentence, weight(0.7, 0.0), ORDER,
                   source("order", {"first": first, "second": second}))  # fmt: skip


def _before(pair: pd.DataFrame, sure: list[Row], run: RunTables, n_run: int) -> Claim:
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
        f"{_items(best, earlier, later, run)}); {_of_pair(len(pair), len(sure))}."
        f"{beside_order(best, run, flipped)}"
    )
    where = {"first": names[0], "second": names[1]}
    at = {name: str(best[name]) for name in ("protocol", "method", "measure")}
    size = weight(0.9, 3 * abs(float(best["difference"])))
    return finding(sentence, size, ORDER, source("order", where, **at))


def _of_pair(n: int, n_sure: int) -> str:
    if n == 1:
        return "no other test of this pair was made"
    direction = "in this direction" if n_sure == 1 else "all in this direction"
    return f"of the {n} tests of this pair, {n_sure} {_are(n_sure)} significant, {direction}"


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


def _not_established(order: pd.DataFrame, pairs: list[tuple[str, str]]) -> Claim:
    named = [f"{first} and {second}" for first, second in pairs]
    mine = pd.concat([rows(order, first=first, second=second) for first, second in pairs])
    sentence = (
        f"No order of emergence is established between {'; '.join(named)}: "
        f"{_why_none(mine, 'their' if len(pairs) > 1 else 'its', len(order))}."
    )
    where = {"first": [a for a, _ in pairs], "second": [b for _, b in pairs]}
    return finding(sentence, weight(0.55, 0.0), ORDER, source("order", where))


def _why_none(mine: pd.DataFrame, whose: str, n_run: int) -> str:
    """What keeps tests from saying which comes first, and how many of them."""
    sure, away = numbers(mine, "p_holm") < _LEVEL, _away(mine)
    n, n_sure, unsure = len(mine), int(sure.sum()), f"not significant {after_holm(n_run)}"
    if not n_sure:
        least = p_value(float(numbers(mine, "p_holm").min()))
        if n == 1:
            return f"{whose} one test is {unsure} ({least})"
        return f"none of {whose} {n} tests is significant {after_holm(n_run)} (smallest {least})"
    parts = [f"{n - n_sure} {_are(n - n_sure)} {unsure}"] if n > n_sure else []
    either, small = int((sure & ~away).sum()), int((sure & away).sum())
    if either:
        parts.append(
            f"{either} {_find(either)} two different depths but not which of them comes first"
            f"{_example(pd.DataFrame(mine.loc[sure & ~away]))}"
        )
    if small:
        parts.append(f"{small} {_find(small)} a difference too small to be of interest")
    return f"of {whose} {counted(n, 'test')}, {joined(parts)}"


def _example(mine: pd.DataFrame) -> str:
    """How far the surest of the tests leaves open what comes first."""
    row = min(records(mine), key=lambda each: each["p_holm"])
    if not row["low"] <= 0 <= row["high"]:  # no bounds
        return ""
    return (
        f" (by {row['method']} under {row['protocol']}, {row['second']} may lie anywhere from "
        f"{-row['low']:.2f} of the model's depth before {row['first']} to {row['high']:.2f} "
        "behind it)"
    )


def _away(mine: pd.DataFrame) -> np.ndarray:
    """Where the interval of the difference lies on one side of 0."""
    return (numbers(mine, "low") > 0) | (numbers(mine, "high") < 0)


def _are(n: int) -> str:
    return "is" if n == 1 else "are"


def _find(n: int) -> str:
    return "finds" if n == 1 else "find"
