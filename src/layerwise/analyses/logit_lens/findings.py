"""Sentences on prediction depth: which capability's answers settle later, where that is tested.

Only significant differences make a sentence; the table has the others.
"""

from __future__ import annotations

from typing import Any

from layerwise.analyses.emergence.difficulty_words import beside_order
from layerwise.presentation.claim import ESTABLISHED, LENS, Claim, Estimate, source, spaced, weight
from layerwise.presentation.over_run import after_holm
from layerwise.presentation.rows import records, rows
from layerwise.presentation.wording import interval, number, when
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
    names = (str(row[later]), str(row[earlier]))
    table = run.table("prediction_depth_means")
    assert table is not None
    at = {name: row[name] for name in ("lens", "protocol")}
    means = [records(rows(table, capability=name, **at))[0] for name in names]
    depths = " against ".join(number(100 * mean["depth"]) for mean in means)
    shown = (interval(*(mean[n] for n in ("depth", "low", "high")), digits=2) for mean in means)
    where = {name: str(row[name]) for name in ("lens", "protocol", "first", "second")}
    sign = -1 if flipped else 1
    low, high = sorted(sign * float(row[name]) for name in ("low", "high"))
    return Claim(
        kind=LENS, evidence=ESTABLISHED, importance=weight(0.7, 2 * share - 1),
        short=f"By the {row['lens']} lens, the final answer is fixed later for {names[0]} than "
        f"for {names[1]} {when(row['protocol'])}: at {depths} % of the depth.",
        capabilities=names, protocols=(where["protocol"],),
        tasks=tuple(task for mean in means for task in mean["tasks"].split(",")),
        details=(
            f"Right answers come to stay on top at mean relative depth {' against '.join(shown)}.",
            f"{100 * share:.0f} % of the pairs of items are in this order.",
        ),
        estimate=Estimate(sign * float(row["difference"]), low, high, "of the depth", digits=2),
        p=float(row["p_holm"]), test=f"Mann-Whitney test {after_holm(n_tests)}",
        items=f"{row[f'n_{later}']} and {row[f'n_{earlier}']} items",
        caveat=_difficulty(row, run, flipped).strip(),
        source=source("prediction_depth_comparisons", where),
    )  # fmt: skip


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
