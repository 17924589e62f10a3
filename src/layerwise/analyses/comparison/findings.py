"""Claims on what differs between runs: what is established, and what is not.

They read a comparison's table of differences only. A difference is told only where its test
supports it; centres of mass and the sizes of critical sets, which are not compared, have none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pandas as pd

from layerwise.presentation.claim import Claim, Estimate, Evidence, source, weight
from layerwise.presentation.over_run import LEVEL, n_tests
from layerwise.presentation.rows import asked_of, records, rows
from layerwise.presentation.wording import (
    CAPABILITY_ORDER,
    PROTOCOL_ORDER,
    capitalised,
    counted,
    in_order,
    interval,
    number,
    when,
)

from .compared import AXES, MEASURES, digits_of, scale_of

NOTHING = "no difference"
Row = dict[str, Any]


def established(differences: pd.DataFrame, tests: Mapping[str, int] | None = None) -> list[Claim]:
    """A claim for each difference that its test supports.

    The largest of each capability and family come first, then the second largest of each.
    """
    sure = rows(differences, significant=True, measure=list(MEASURES))
    kinds = tests or differences["family"].value_counts().to_dict()
    whole = n_tests(differences)
    found = [_difference(row, kinds[row["family"]], whole) for row in records(sure)]
    found.sort(key=lambda claim: -claim.importance)
    before: Counter[tuple[Any, ...]] = Counter()
    places = []
    for claim in found:
        group = (claim.kind, claim.capabilities, claim.source["where"]["first"])
        places.append(before[group])
        before[group] += 1
    return [found[i] for i in sorted(range(len(found)), key=lambda i: places[i])]


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
    size, *ends = (
        (scale if more else -scale) * float(row[name]) for name in ("difference", "low", "high")
    )
    second, first = (number(scale * row[f"estimate_{name}"], digits) for name in _BOTH)
    holds = n_whole > 0 and row["p_run"] < LEVEL
    page = f"all {counted(n_whole, 'comparison')} of the page"
    family = page if holds else f"{counted(n_kind, 'comparison')} of this kind"
    test = _OF_RUNS if row["unit"] == "run" else _TESTS[row["family"]]
    short, unit = _SHORT[row["family"]](row, more, number(size, digits))
    return Claim(
        kind=row["family"],
        short=f"{short} {when(row['protocol'])}.",
        evidence=Evidence.ESTABLISHED if holds else Evidence.IN_TABLE,
        importance=weight(0.9, abs(row["difference"])),
        source=_source(row, *_CELL, "tasks"),
        estimate=Estimate(size, min(ends), max(ends), unit, digits=digits),
        p=float(row["p_run"] if holds else row["p_holm"]),
        test=f"{test}, Holm over {family}",
        details=(f"{capitalised(_what(row))}: {second} against {first}{' %' * (scale != 1)}.",),
        caveat="" if holds or not n_whole else f"Over {page} (Holm) it does not hold.",
        **_asked(pd.DataFrame([row])),
    )


_BOTH = ("second", "first")
_CELL = ("first", "second", "family", "axis", "measure", "method", "protocol")


def _source(row: Row, *names: str) -> dict[str, Any]:
    return source("comparison_differences", {name: row[name] for name in names})


def _asked(about: pd.DataFrame) -> dict[str, Any]:
    row, asked = records(about)[0], asked_of(about)
    runs = f" and {row['n_second']} against {row['n_first']} runs" * (row["unit"] == "run")
    return asked | {"items": asked["items"] + runs}


def _accuracy(row: Row, more: bool, size: str) -> tuple[str, str]:
    word = "more" if more else "less"
    short = f"{row['second']} answers {size} points {word} of {row['tasks']} right"
    return f"{short} than {row['first']}", f"points {word}"


def _depth(row: Row, more: bool, size: str) -> tuple[str, str]:
    whole = "the depth" if row["axis"] == AXES[0] else f"the {row['axis']}'s depth"
    word = "deeper" if more else "less deep"
    verb = "has its answer fixed" if row["measure"] == "prediction depth" else "lies"
    short = f"By {row['method']}, {row['capability']} {verb} {size} of {whole} {word}"
    return f"{short} in {row['second']} than in {row['first']}", f"of {whole} {word}"


def _loss(row: Row, more: bool, size: str) -> tuple[str, str]:
    word = "more" if more else "less"
    third = row["measure"].removesuffix(" third")
    short = f"Skipping a{'n' * (third == 'early')} {third} layer costs {row['second']} {size}"
    return (
        f"{short} points {word} of {row['capability']} than {row['first']}",
        f"points {word} of the accuracy above the floor, by skipped layer of the {third} third",
    )


_SHORT = {"accuracy": _accuracy, "depth": _depth, "share lost": _loss}
_TESTS = {
    "accuracy": "exact McNemar test",
    "depth": "joint contrast of both depths over items",
    "share lost": "sign flips of items and joint contrast of both shares, the larger p",
}
_OF_RUNS = "test of training runs and items (min F')"


def _nothing(mine: pd.DataFrame) -> Claim:
    first = records(mine)[0]
    return Claim(
        kind=NOTHING,
        short=f"No difference in {_what(first)} is established between {first['first']} and "
        f"{first['second']} {when(first['protocol'])}.",
        evidence=Evidence.OPEN,
        importance=0.1,
        source=_source(first, *_CELL),
        details=tuple(map(_part, records(mine))),
        caveat=f"Of the {first['measure']}: the second minus the first, with 95 % intervals.",
        **_asked(mine),
    )


def _what(row: Row) -> str:
    within = "" if row["axis"] == AXES[0] else f"{row['axis']} "
    return {
        "accuracy": "intact accuracy",
        "depth": f"{within}{row['measure']} by {row['method']}",
        "share lost": f"losses without {row['measure'].removesuffix(' third')} layers",
    }[row["family"]]


def _part(row: Row) -> str:
    name = row["tasks"] if row["family"] == "accuracy" else row["capability"]
    scale = scale_of(row["family"])
    middle, low, high = (scale * row[end] for end in ("difference", "low", "high"))
    size = interval(middle, low, high, digits_of(row["family"])) + " points" * (scale != 1)
    return f"{capitalised(name)}: {size}, n = {row['n_items']}."
