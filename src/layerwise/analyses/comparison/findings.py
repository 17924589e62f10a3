"""Claims on what differs between runs, from a comparison's table of differences alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from layerwise.presentation.claim import Claim, Estimate, Evidence, source, weight
from layerwise.presentation.over_run import LEVEL, n_tests
from layerwise.presentation.rows import claim_scope, records, rows
from layerwise.presentation.wording import (
    CAPABILITY_ORDER,
    PROTOCOL_ORDER,
    capitalise,
    count_noun,
    in_order,
    interval,
    join_words,
    number,
    protocol_phrase,
)
from layerwise.stats.depth.layer_curves import ABLATION

from .runs import AXES, MEASURES

NOTHING = "no difference"
Row = dict[str, Any]
_TABLE = "comparison_differences"
_CELL = ("first", "second", "family", "axis", "measure", "method", "protocol")
_ORDERS = {"protocol": PROTOCOL_ORDER, "measure": MEASURES, "capability": CAPABILITY_ORDER}
_UNITS = {"accuracy": "% points", "depth": "% of the depth", "share lost": "% of the score"}
_VERBS = {"half-effect depth": ("lie", "lies"), "prediction depth": ("settle", "settles")}
_SHORT = {
    "accuracy": "{larger} is right in {more} % of {tasks}, {smaller} in {less} %,",
    "depth": "By {method}, {capability} {verb} deeper in {larger} (at {more} % of {whole}) than in "
    "{smaller} (at {less} %)",
    "share lost": "{name}: a layer of the {third} costs {larger} {more} % of its score, {smaller} "
    "{less} %,",
}
_NO_DIFFERENCE = {
    "accuracy": "accuracy",
    "depth": "{within}{measure} by {method}",
    "share lost": "what a layer of the {third} costs",
}
_TESTS = {
    "accuracy": "exact McNemar test",
    "depth": "joint contrast of both depths over items",
    "share lost": "sign flips of items and joint contrast of both shares, the larger p",
}
_OF_RUNS = "test of training runs and items (min F')"


def difference_claims(
    differences: pd.DataFrame, tests: Mapping[str, int] | None = None
) -> list[Claim]:
    """A claim for each supported difference, the largest of each capability and family first."""
    sure = rows(differences, significant=True, measure=MEASURES)
    kinds = tests or differences["family"].value_counts().to_dict()
    ranked = sure.sort_values("difference", key=abs, ascending=False, kind="stable")
    places = ranked.groupby(["family", "capability", "first"]).cumcount()
    ordered = ranked.loc[places.sort_values(kind="stable").index]
    whole = n_tests(differences)
    return [_difference(row, kinds[row["family"]], whole) for row in records(ordered)]


def no_difference_claims(differences: pd.DataFrame) -> list[Claim]:
    """Claims that no difference is established, by pair, protocol, method and measure."""
    left = rows(differences, significant=False, measure=MEASURES)
    ranks = {
        name: {value: i for i, value in enumerate(in_order(left[name], order))}
        for name, order in _ORDERS.items()
    }
    ordered = left.sort_values(
        list(_ORDERS), key=lambda names: names.map(ranks[str(names.name)]), kind="stable"
    )
    return [_no_difference_claim(part) for _, part in ordered.groupby(list(_CELL), sort=False)]


def headline(differences: pd.DataFrame) -> str:
    """The established difference that most capabilities share, a lens's last; else empty."""
    sure = records(rows(differences, significant=True, measure=MEASURES))
    alike: dict[tuple[Any, ...], list[Row]] = {}
    for row in sure:
        alike.setdefault((*(row[name] for name in _CELL), row["difference"] > 0), []).append(row)
    if not alike:
        return ""

    def rank(group: list[Row]) -> tuple[int, int]:
        method = group[0]["method"]
        return -1 if "lens" in method else int(method == ABLATION), len(group)

    shared = max(alike.values(), key=rank)
    row, names = shared[0], in_order((each["capability"] for each in shared), CAPABILITY_ORDER)
    words, one = _words(row), len(names) == 1
    than = f"in {words['larger']} than in {words['smaller']} {protocol_phrase(row['protocol'])}"
    if row["family"] == "accuracy":
        tasks = join_words(in_order((each["tasks"] for each in shared), ()))
        right = f"{words['larger']} is right more often than {words['smaller']} on {tasks}"
        return f"{right} {protocol_phrase(row['protocol'])}."
    if row["family"] == "depth":
        return (
            f"By {row['method']}, {join_words(names)} {_VERBS[row['measure']][one]} deeper {than}."
        )
    third = f"the {words['third']} of the layers"
    return f"{capitalise(join_words(names))} need{'s' * one} {third} more {than}."


def _words(row: Row) -> Row:
    """The models in the order of their values, and what is measured, for templates."""
    models = [(str(row[end]), number(100 * row[f"estimate_{end}"])) for end in ("first", "second")]
    (smaller, less), (larger, more) = models if row["difference"] > 0 else models[::-1]
    whole = row["axis"] == AXES[0]
    return row | {
        "larger": larger,
        "smaller": smaller,
        "more": more,
        "less": less,
        "verb": _VERBS.get(row["measure"], ("", ""))[1],
        "whole": "the depth" if whole else f"the {row['axis']}'s depth",
        "within": "" if whole else f"{row['axis']} ",
        "third": str(row["measure"]).replace("early", "first").replace("late", "last"),
        "name": capitalise(row["capability"]),
    }


def _difference(row: Row, n_kind: int, n_whole: int) -> Claim:
    sign = 100 if row["difference"] > 0 else -100
    size, *ends = (sign * float(row[name]) for name in ("difference", "low", "high"))
    words, holds = _words(row), n_whole > 0 and row["p_run"] < LEVEL
    page = f"all {count_noun(n_whole, 'comparison')} of the page"
    tests = page if holds else f"{count_noun(n_kind, 'comparison')} of this kind"
    test = _OF_RUNS if row["unit"] == "run" else _TESTS[row["family"]]
    unit = f"{_UNITS[row['family']]} more in {words['larger']}"
    is_share = row["family"] == "share lost"
    return Claim(
        kind=row["family"],
        short=f"{_SHORT[row['family']].format(**words)} {protocol_phrase(row['protocol'])}.",
        evidence=Evidence.ESTABLISHED if holds else Evidence.IN_TABLE,
        importance=weight(0.9, abs(row["difference"])),
        source=source(_TABLE, {name: row[name] for name in (*_CELL, "tasks")}),
        estimate=Estimate(size, min(ends), max(ends), unit),
        p=float(row["p_run"] if holds else row["p_holm"]),
        test=f"{test}, Holm over {tests}",
        details=("A layer's cost is the mean over the layers of the third.",) * is_share,
        caveat="" if holds or not n_whole else f"Over {page} (Holm) it does not hold.",
        **_scope(pd.DataFrame([row])),
    )


def _scope(about: pd.DataFrame) -> dict[str, Any]:
    row, items = records(about)[0], claim_scope(about)
    runs = f" and {row['n_second']} against {row['n_first']} runs" * (row["unit"] == "run")
    return items | {"items": items["items"] + runs}


def _no_difference_claim(differences: pd.DataFrame) -> Claim:
    first = records(differences)[0]
    what = _NO_DIFFERENCE[first["family"]].format(**_words(first))
    named = "tasks" if first["family"] == "accuracy" else "capability"
    return Claim(
        kind=NOTHING,
        short=f"No difference in {what} is established between {first['first']} and "
        f"{first['second']} {protocol_phrase(first['protocol'])}.",
        evidence=Evidence.OPEN,
        importance=0.1,
        source=source(_TABLE, {name: first[name] for name in _CELL}),
        details=tuple(
            f"{capitalise(row[named])}: "
            f"{interval(*(100 * row[end] for end in ('difference', 'low', 'high')))} "
            f"{_UNITS[row['family']]}, n = {row['n_items']}."
            for row in records(differences)
        ),
        caveat=f"Of the {first['measure']}: the second minus the first, with 95 % intervals.",
        **_scope(differences),
    )
