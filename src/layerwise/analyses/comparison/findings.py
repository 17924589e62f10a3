"""Claims on what differs between runs: what is established, and what is not.

They read a comparison's table of differences only. A difference becomes a claim only where its test
supports it; centres of mass and the sizes of critical sets, which are not compared, have none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

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
    joined,
    number,
    when,
)
from layerwise.stats.depth.layer_curves import ABLATION

from .runs import AXES, MEASURES

NOTHING = "no difference"
Row = dict[str, Any]


def established(differences: pd.DataFrame, tests: Mapping[str, int] | None = None) -> list[Claim]:
    """A claim for each difference that its test supports.

    The largest of each capability and family come first, then the second largest of each.
    """
    sure = rows(differences, significant=True, measure=list(MEASURES))
    kinds = tests or differences["family"].value_counts().to_dict()
    whole = n_tests(differences)
    claims = [_difference(row, kinds[row["family"]], whole) for row in records(sure)]
    claims.sort(key=lambda claim: -claim.importance)
    before: Counter[tuple[Any, ...]] = Counter()
    places = []
    for claim in claims:
        group = (claim.kind, claim.capabilities, claim.source["where"]["first"])
        places.append(before[group])
        before[group] += 1
    return [claims[i] for i in sorted(range(len(claims)), key=lambda i: places[i])]


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


def headline(differences: pd.DataFrame) -> str:
    """The established difference that most capabilities share, without numbers; else empty.

    What changing layers shows comes first; what only a lens sees, which reads one stack, last.
    """
    sure = rows(differences, significant=True, measure=list(MEASURES))
    alike: dict[tuple[Any, ...], list[Row]] = {}
    for row in records(sure):
        alike.setdefault((*(row[name] for name in _CELL), row["difference"] > 0), []).append(row)
    if not alike:
        return ""
    shared = max(alike.values(), key=lambda group: (_rank(group[0]["method"]), len(group)))
    row, (larger, smaller) = shared[0], _ordered(shared[0])
    names = joined(in_order((each["capability"] for each in shared), CAPABILITY_ORDER))
    than = f"in {larger.name} than in {smaller.name} {when(row['protocol'])}"
    one = len({each["capability"] for each in shared}) == 1
    if row["family"] == "accuracy":
        tasks = joined(in_order((each["tasks"] for each in shared), ()))
        right = f"{larger.name} is right more often than {smaller.name} on {tasks}"
        return f"{right} {when(row['protocol'])}."
    if row["family"] == "depth":
        return f"By {row['method']}, {names} {_VERBS[row['measure']][one]} deeper {than}."
    third = f"the {_THIRDS[row['measure']]} of the layers"
    return f"{capitalised(names)} need{'s' * one} {third} more {than}."


def _rank(method: str) -> int:
    return -1 if "lens" in method else int(method == ABLATION)


class _Model(NamedTuple):
    """One of the two that differ, and its value in per cent."""

    name: str
    value: str


def _ordered(row: Row) -> tuple[_Model, _Model]:
    """The model with the larger value, and the other."""
    first, second = (
        _Model(str(row[name]), number(100 * row[f"estimate_{name}"]))
        for name in ("first", "second")
    )
    return (second, first) if row["difference"] > 0 else (first, second)


def _difference(row: Row, n_kind: int, n_whole: int) -> Claim:
    sign = 100 if row["difference"] > 0 else -100
    size, *ends = (sign * float(row[name]) for name in ("difference", "low", "high"))
    larger, smaller = _ordered(row)
    holds = n_whole > 0 and row["p_run"] < LEVEL
    page = f"all {counted(n_whole, 'comparison')} of the page"
    family = page if holds else f"{counted(n_kind, 'comparison')} of this kind"
    test = _OF_RUNS if row["unit"] == "run" else _TESTS[row["family"]]
    return Claim(
        kind=row["family"],
        short=f"{_SHORT[row['family']](row, larger, smaller)} {when(row['protocol'])}.",
        evidence=Evidence.ESTABLISHED if holds else Evidence.IN_TABLE,
        importance=weight(0.9, abs(row["difference"])),
        source=_source(row, *_CELL, "tasks"),
        estimate=Estimate(
            size, min(ends), max(ends), f"{_UNITS[row['family']]} more in {larger.name}"
        ),
        p=float(row["p_run"] if holds else row["p_holm"]),
        test=f"{test}, Holm over {family}",
        details=(_MEANS,) if row["family"] == "share lost" else (),
        caveat="" if holds or not n_whole else f"Over {page} (Holm) it does not hold.",
        **_scope(pd.DataFrame([row])),
    )


_CELL = ("first", "second", "family", "axis", "measure", "method", "protocol")


def _source(row: Row, *names: str) -> dict[str, Any]:
    return source("comparison_differences", {name: row[name] for name in names})


def _scope(about: pd.DataFrame) -> dict[str, Any]:
    row, items = records(about)[0], asked_of(about)
    runs = f" and {row['n_second']} against {row['n_first']} runs" * (row["unit"] == "run")
    return items | {"items": items["items"] + runs}


_THIRDS = {"early third": "first third", "middle third": "middle third", "late third": "last third"}
_VERBS = {"half-effect depth": ("lie", "lies"), "prediction depth": ("settle", "settles")}
_UNITS = {"accuracy": "% points", "depth": "% of the depth", "share lost": "% of the score"}
_MEANS = "A layer's cost is the mean over the layers of the third."


def _accuracy(row: Row, larger: _Model, smaller: _Model) -> str:
    return (
        f"{larger.name} is right in {larger.value} % of {row['tasks']}, {smaller.name} in "
        f"{smaller.value} %,"
    )


def _depth(row: Row, larger: _Model, smaller: _Model) -> str:
    whole = "the depth" if row["axis"] == AXES[0] else f"the {row['axis']}'s depth"
    verb = _VERBS[row["measure"]][1]
    return (
        f"By {row['method']}, {row['capability']} {verb} deeper in {larger.name} (at "
        f"{larger.value} % of {whole}) than in {smaller.name} (at {smaller.value} %)"
    )


def _loss(row: Row, larger: _Model, smaller: _Model) -> str:
    return (
        f"{capitalised(row['capability'])}: a layer of the {_THIRDS[row['measure']]} costs "
        f"{larger.name} {larger.value} % of its score, {smaller.name} {smaller.value} %,"
    )


_SHORT = {"accuracy": _accuracy, "depth": _depth, "share lost": _loss}
_TESTS = {
    "accuracy": "exact McNemar test",
    "depth": "joint contrast of both depths over items",
    "share lost": "sign flips of items and joint contrast of both shares, the larger p",
}
_OF_RUNS = "test of training runs and items (min F')"


def _nothing(differences: pd.DataFrame) -> Claim:
    first = records(differences)[0]
    return Claim(
        kind=NOTHING,
        short=f"No difference in {_what(first)} is established between {first['first']} and "
        f"{first['second']} {when(first['protocol'])}.",
        evidence=Evidence.OPEN,
        importance=0.1,
        source=_source(first, *_CELL),
        details=tuple(map(_part, records(differences))),
        caveat=f"Of the {first['measure']}: the second minus the first, with 95 % intervals.",
        **_scope(differences),
    )


def _what(row: Row) -> str:
    if row["family"] == "share lost":
        return f"what a layer of the {_THIRDS[row['measure']]} costs"
    within = "" if row["axis"] == AXES[0] else f"{row['axis']} "
    depth = f"{within}{row['measure']} by {row['method']}"
    return depth if row["family"] == "depth" else "accuracy"


def _part(row: Row) -> str:
    name = row["tasks"] if row["family"] == "accuracy" else row["capability"]
    size = interval(*(100 * row[end] for end in ("difference", "low", "high")))
    return f"{capitalised(name)}: {size} {_UNITS[row['family']]}, n = {row['n_items']}."
