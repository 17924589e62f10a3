"""Sentences on prediction depth: which capability's answers settle later, where that is tested.

Only significant differences make a sentence; the table has the others.
"""

from __future__ import annotations

from typing import Any

from layerwise.analyses.emergence.difficulty_words import beside_order
from layerwise.presentation.claim import Claim, finding, source, spaced, weight
from layerwise.presentation.over_run import after_holm
from layerwise.presentation.rows import records, rows
from layerwise.presentation.wording import (
    capitalised,
    interval,
    p_value,
)
from layerwise.storage.run_tables import RunTables

SETTLED = "prediction depth"


def settled_later(run: RunTables) -> list[Claim]:
    """The clearest differences in depth between two capabilities' right answers.

    Ranks of items may differ where mean depths, which the sentence tells, cannot be told apart:
    both must.
    """
    prediction_depth_means = run.table("prediction_depth_means")
    prediction_depth_comparisons = run.table("prediction_depth_comparisons")
    if prediction_depth_comparisons is None or prediction_depth_means is None:
        return []
    ranked = records(rows(prediction_depth_comparisons, significant=True))
    sure = [row for row in ranked if row["low"] > 0 or row["high"] < 0]
    n_tests = len(prediction_depth_comparisons)
    return spaced([_later(row, run, n_tests) for row in sure], 1)


def _later(row: dict[str, Any], run: RunTables, n_tests: int) -> Claim:
    flipped = row["later"] < 0.5
    earlier, later = ("second", "first") if flipped else ("first", "second")
    share = 1 - row["later"] if flipped else row["later"]
    sentence = (
        f"{capitalised(str(row[later]))} settles later than {row[earlier]} by the {row['lens']} "
        f"lens on {row['protocol']} prompts: right answers come to stay on top at mean relative "
        f"depth {_mean(row, later, run)} against {_mean(row, earlier, run)}; "
        f"{100 * share:.0f} % of the pairs of items are in this order (Mann-Whitney, "
        f"{p_value(row['p_holm'])} {after_holm(n_tests)}, n = {row[f'n_{later}']} and "
        f"{row[f'n_{earlier}']}).{_difficulty(row, run, flipped)}"
    )
    where = {name: str(row[name]) for name in ("lens", "protocol", "first", "second")}
    size = weight(0.7, 2 * share - 1)
    return finding(sentence, size, SETTLED, source("prediction_depth_comparisons", where))


def _difficulty(row: dict[str, Any], run: RunTables, flipped: bool) -> str:
    """What the tests of order know of how difficult the two are; the later one is named first."""
    order = run.table("order")
    if order is None:
        return ""
    where = {"method": f"{row['lens']} lens", "measure": SETTLED, "protocol": row["protocol"]}
    pair = rows(order, **where)
    for turned, (first, second) in enumerate((("first", "second"), ("second", "first"))):
        for found in records(rows(pair, first=row[first], second=row[second])):
            return beside_order(found, run, bool(turned) == flipped)
    return ""


def _mean(row: dict[str, Any], which: str, run: RunTables) -> str:
    prediction_depth_means = run.table("prediction_depth_means")
    assert prediction_depth_means is not None
    keys = {name: row[name] for name in ("lens", "protocol")}
    found = records(rows(prediction_depth_means, capability=row[which], **keys))[0]
    return interval(found["depth"], found["low"], found["high"], 2)
