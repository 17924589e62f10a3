"""Sentences on what differs between runs: what is established, and what is not.

They read a comparison's table of differences only. A difference is told only where its test
supports it; centres of mass and the sizes of critical sets, which are not compared, have none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from layerwise.presentation.claim import Claim, finding, source, weight
from layerwise.presentation.over_run import LEVEL, n_tests
from layerwise.presentation.rows import records, rows
from layerwise.presentation.wording import (
    CAPABILITY_ORDER,
    PROTOCOL_ORDER,
    counted,
    in_order,
    interval,
    joined,
    number,
    p_value,
)

from .measures import AXES, MEASURES, digits_of, scale_of

NOTHING = "no difference"
Row = dict[str, Any]


def established(differences: pd.DataFrame, tests: Mapping[str, int] | None = None) -> list[Claim]:
    """A sentence for each difference that its test supports, the largest first.

    Args:
        differences: ``comparison_differences.parquet``.
        tests: how many tests of each family were corrected together, as the comparison's facts
            have it; those in the table, if nothing of it is known.
    """
    sure = rows(differences, significant=True, measure=list(MEASURES))
    kinds = tests or differences["family"].value_counts().to_dict()
    whole = n_tests(differences)
    found = [_difference(row, kinds[row["family"]], whole) for row in records(sure)]
    return sorted(found, key=lambda finding: -finding.importance)


def not_established(differences: pd.DataFrame) -> list[Claim]:
    """What no difference is established in, by pair, protocol, method and measure."""
    left = rows(differences, significant=False, measure=list(MEASURES))
    cell = list(_CELL)
    order = {name: i for i, name in enumerate(in_order(left["capability"], CAPABILITY_ORDER))}
    left = left.sort_values(by="capability", key=lambda names: names.map(order), kind="stable")
    keys = in_order(map(tuple, left[cell].to_numpy()), ())
    keys.sort(key=lambda key: (_place(key[-1], PROTOCOL_ORDER), _place(key[-3], MEASURES)))
    return [_nothing(rows(left, **dict(zip(cell, key, strict=True)))) for key in keys]


def _place(name: str, order: tuple[str, ...]) -> int:
    return order.index(name) if name in order else len(order)


def _difference(row: Row, n_kind: int, n_whole: int) -> Claim:
    more, scale, digits = row["difference"] > 0, scale_of(row["family"]), digits_of(row["family"])
    ends = (row["low"], row["high"]) if more else (-row["high"], -row["low"])
    estimate, low, high = (scale * value for value in (abs(row["difference"]), *ends))
    size = interval(estimate, low, high, digits)
    second, first = (number(scale * row[f"estimate_{name}"], digits) for name in _BOTH)
    unit = "" if scale == 1 else " %"
    sentence = (
        f"Under {row['protocol']}, {_TOLD[row['family']](row, more, size)} ({_measured(row)}"
        f"{second} against {first}{unit}; {_corrected(row, n_kind, n_whole)}; {_counts(row)})."
    )
    importance = weight(0.9, abs(row["difference"]))
    return finding(sentence, importance, row["family"], _source(row, *_CELL, "tasks"))


def _corrected(row: Row, n_kind: int, n_whole: int) -> str:
    """The p-value with its family, and whether it holds over all families together."""
    told = f"{p_value(row['p_holm'])} after Holm's correction"
    if not n_whole:  # tables of earlier versions
        return told
    holds = "it holds" if row["p_run"] < LEVEL else "it does not hold"
    return (
        f"{told} over {counted(n_kind, 'comparison')} of this kind; over all "
        f"{counted(n_whole, 'comparison')} of the page (Holm) {holds}"
    )


_BOTH = ("second", "first")
_CELL = ("first", "second", "family", "axis", "measure", "method", "protocol")


def _source(row: Row, *names: str) -> dict[str, Any]:
    return source("comparison_differences", {name: row[name] for name in names})


def _accuracy(row: Row, more: bool, size: str) -> str:
    return (
        f"the intact {row['second']} answers {size} points {'more' if more else 'less'} of "
        f"{row['tasks']} right than the intact {row['first']}"
    )


def _depth(row: Row, more: bool, size: str) -> str:
    return (
        f"{row['capability']} lies {size} of the depth{_within(row)} "
        f"{'deeper' if more else 'less deep'} in {row['second']} than in {row['first']}"
    )


def _loss(row: Row, more: bool, size: str) -> str:
    return (
        f"skipping a layer of the {row['measure']} costs {row['second']} {size} points "
        f"{'more' if more else 'less'} of its above-floor accuracy in {row['capability']} than "
        f"{row['first']}"
    )


_TOLD = {"accuracy": _accuracy, "depth": _depth, "share lost": _loss}


def _within(row: Row) -> str:
    return "" if row["axis"] == AXES[0] else f" of the {row['axis']}"


def _measured(row: Row) -> str:
    return f"{row['measure']} by {row['method']}: " if row["family"] == "depth" else ""


def _counts(row: Row) -> str:
    if row["unit"] == "run":
        return f"{row['n_second']} against {row['n_first']} runs, n = {row['n_items']} items"
    return f"n = {row['n_items']}"


def _nothing(mine: pd.DataFrame) -> Claim:
    listed = records(mine)
    first = listed[0]
    runs = f"; {first['n_second']} against {first['n_first']} runs" * (first["unit"] == "run")
    sentence = (
        f"Under {first['protocol']}, no difference in {_what(first)} is established between "
        f"{first['first']} and {first['second']} for {joined(_part(row) for row in listed)} "
        f"(second minus first, 95 % intervals{runs})."
    )
    return finding(sentence, 0.1, NOTHING, _source(first, *_CELL))


def _what(row: Row) -> str:
    by = f" by {row['method']}"
    return {
        "accuracy": "intact accuracy",
        "depth": f"{row['measure']}{_within(row)}{by}",
        "share lost": f"the share lost per layer of the {row['measure']}{by}",
    }[row["family"]]


def _part(row: Row) -> str:
    name = row["tasks"] if row["family"] == "accuracy" else row["capability"]
    scale = scale_of(row["family"])
    middle, low, high = (scale * row[end] for end in ("difference", "low", "high"))
    size = interval(middle, low, high, digits_of(row["family"]))
    unit = "" if scale == 1 else " points"
    return f"{name} ({size}{unit}, n = {row['n_items']})"
