"""Sentences on whether methods agree, and how unlike protocols are by depth.

They read tested comparisons; no test is made here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from layerwise.ground.layer_names import COMPUTATION
from layerwise.presentation.claim import SCORING, Claim, Estimate, Evidence, source, spaced, weight
from layerwise.presentation.naming import name_layer
from layerwise.presentation.over_run import after_holm
from layerwise.presentation.rows import numbers, records, rows
from layerwise.presentation.wording import (
    PROTOCOL_ORDER,
    capitalised,
    counted,
    few_layers,
    in_order,
    interval,
    joined,
    layer_ranges,
    number,
    percent,
    spread,
    when,
)
from layerwise.stats.depth.layer_curves import ABLATION, ATTRIBUTION, PATCHING
from layerwise.storage.run_tables import RunTables

AGREEMENT = "agreement"
HALF, RANKS = "half-effect depth", "rank correlation"
_LEVEL = 0.05
_ENDS = ("layer", "layer_low", "layer_high")
# An interval over more of the depth than this names no place.
_WIDEST = 0.5
# What each method says of the layer in which half of its effect is reached.
_DOES = {
    ABLATION: "needed around", ATTRIBUTION: "written around",
    "logit lens": "readable by logit lens after", PATCHING: "decided around",
}  # fmt: skip
Row = dict[str, Any]


def interactions(run: RunTables) -> list[Claim]:
    """One sentence per capability whose profile changes with the protocol, and one for the rest."""
    protocol_interaction = run.table("protocol_interaction")
    if protocol_interaction is None:
        return []
    table, differ, alike = protocol_interaction, [], []
    n_tests = len(table[["capability", "first", "second"]].drop_duplicates())
    for capability in in_order(table["capability"], ()):
        of_capability = rows(table, capability=capability)
        sure = of_capability.loc[of_capability["p_holm"] < _LEVEL]
        differ.append(_depends(sure, n_tests)) if len(sure) else alike.append(capability)
    return spaced(differ, 2) + ([_no_evidence(table, alike, n_tests)] if alike else [])


def _depends(sure: pd.DataFrame, n_tests: int) -> Claim:
    """Where losses differ most and least, of the pair of protocols with the smallest p."""
    pairs = [
        rows(sure, first=first, second=second)
        for first, second in in_order(zip(sure["first"], sure["second"], strict=True), ())
    ]
    best = min(pairs, key=lambda pair: (pair["p_holm"].iloc[0], -_apart(pair)))
    ranked = records(best.sort_values("difference", kind="stable"))
    # Written from the protocol under which the group with the widest difference loses more.
    turned = abs(ranked[0]["difference"]) > abs(ranked[-1]["difference"])
    least, most = (ranked[-1], ranked[0]) if turned else (ranked[0], ranked[-1])
    sign = -100 if turned else 100
    where = {name: str(most[name]) for name in ("capability", "first", "second")}
    pair = (where["first"], where["second"])
    more, less = pair[::-1] if turned else pair
    gap, *ends = (sign * most[end] for end in ("difference", "low", "high"))
    return Claim(
        kind=SCORING, evidence=Evidence.ESTABLISHED, importance=weight(0.92, 2 * _apart(best)),
        short=f"For {most['capability']}, losses {when(more)} exceed those {when(less)} by "
        f"{number(gap)} % in {few_layers(list(most['layers']))}, by "
        f"{number(sign * least['difference'])} % in {few_layers(list(least['layers']))}.",
        capabilities=(where["capability"],), protocols=pair, p=float(most["p_holm"]),
        items=f"{most['n_items']} items",
        test=f"interaction with the layer group, {after_holm(n_tests)}",
        estimate=Estimate(gap, min(ends), max(ends), f"% of the score more {when(more)}, in "
                          f"{most['group']} layers"),
        details=(
            f"Losses {when(more)} minus {when(less)}, in % of the score: "
            f"{_differences(best, sign)}.",
            f"In the {most['group']} layers ({layer_ranges(most['layers'])}): "
            f"{_share(most, 'first')} {when(pair[0])}, {_share(most, 'second')} {when(pair[1])}.",
        ),
        caveat="That other layers are needed does not follow: a harder way of scoring loses more "
        "wherever something is lost.",
        source=source("protocol_interaction", where, group=str(most["group"])),
    )  # fmt: skip


def _apart(pair: pd.DataFrame) -> float:
    """How far the differences of groups are from their mean, at most."""
    difference = numbers(pair, "difference")
    return float(np.abs(difference - difference.mean()).max())


def _share(row: Row, which: str) -> str:
    return percent(*(row[f"share_{which}{end}"] for end in ("", "_low", "_high")))


def _differences(pair: pd.DataFrame, sign: int) -> str:
    listed = []
    for row in records(pair):
        middle, *ends = (sign * row[end] for end in ("difference", "low", "high"))
        listed.append(f"{row['group']} {interval(middle, min(ends), max(ends))}")
    return joined(listed)


def _no_evidence(table: pd.DataFrame, capabilities: list[str], n_tests: int) -> Claim:
    tests = rows(table, capability=capabilities)
    pairs = in_order(zip(tests["first"], tests["second"], strict=True), ())
    return Claim(
        kind=SCORING, evidence=Evidence.OPEN, importance=weight(0.5, 0.0),
        capabilities=tuple(capabilities),
        short="That two ways of scoring differ more at some depths than at others is not "
        f"established for {joined(capabilities)}.",
        p=float(numbers(tests, "p_holm").min()), items=f"{spread(tests['n_items'])} items",
        test=f"the smallest; interaction with the layer group, {after_holm(n_tests)}",
        details=(f"{capitalised(joined(f'{a} against {b}' for a, b in pairs))} were compared.",),
        protocols=tuple(in_order([name for pair in pairs for name in pair], PROTOCOL_ORDER)),
        source=source("protocol_interaction", {"capability": capabilities}),
    )  # fmt: skip


def agreements(run: RunTables) -> list[Claim]:
    """What each method says of a capability's depth, side by side, and how ranks go together."""
    emergence, methods = run.table("emergence"), run.table("method_agreement")
    claims = [] if emergence is None else _side_by_side(emergence)
    return claims + ([] if methods is None else _ranks(rows(methods, measure=RANKS)))


def _side_by_side(emergence: pd.DataFrame) -> list[Claim]:
    """One claim for each capability that several methods place.

    Methods ask different things, so that other depths are no disagreement.
    """
    depths, claims = rows(emergence, measure=HALF, axis=COMPUTATION), []
    for capability in in_order(depths["capability"], ()):
        of_capability = rows(depths, capability=capability)
        protocol = str(of_capability["protocol"].value_counts().idxmax())
        of_protocol = rows(of_capability, protocol=protocol)
        placed = records(
            of_protocol.loc[numbers(of_protocol, "high") - numbers(of_protocol, "low") <= _WIDEST]
        )
        words = [
            f"{does} {_place(row)}"
            for method, does in _DOES.items()
            for row in placed if row["method"] == method
        ]  # fmt: skip
        if len(words) < 2:
            continue
        details = tuple(
            f"By {row['method']}: layer {interval(*(row[n] for n in _ENDS), digits=1)}."
            for row in placed
        )
        claims.append(Claim(
            kind=AGREEMENT, short=f"{capitalised(capability)} is {joined(words)}.",
            evidence=Evidence.IN_TABLE, importance=0.55, details=details, protocols=(protocol,),
            capabilities=(capability,), items=f"{spread(row['n_items'] for row in placed)} items",
            caveat="Half of the effect lies before each; the methods ask different things.",
            source=source("emergence", {"measure": HALF, "axis": COMPUTATION,
                                        "capability": capability, "protocol": protocol}),
        ))  # fmt: skip
    return claims


def _place(row: Row) -> str:
    """The layer of half of the effect, or those of two suites that disagree."""
    if pd.isna(row["p_tasks"]):
        return f"layer {name_layer(round(row['layer']))}"
    return "layers {} or {}".format(*(name_layer(round(row[f"layer_{end}"]))
                                      for end in ("first", "last")))  # fmt: skip


def _ranks(ranks: pd.DataFrame) -> list[Claim]:
    if ranks.empty:
        return []
    p = numbers(ranks, "p_holm")
    sure = (p < _LEVEL) & (numbers(ranks, "estimate") > 0)
    ordered = records(ranks.sort_values(by="estimate"))
    ends = tuple(
        f"{which} correlation: {interval(row['estimate'], row['low'], row['high'], 2)}, of "
        f"{row['first']} and {row['second']} for {row['capability']} {when(row['protocol'])}."
        for which, row in (("Lowest", ordered[0]), ("Highest", ordered[-1]))
    )
    return [Claim(
        kind=AGREEMENT, evidence=Evidence.ESTABLISHED if sure.any() else Evidence.OPEN,
        importance=weight(0.55, float(sure.mean())),
        short=f"In {int(sure.sum())} of {counted(len(ranks), 'comparison')} two methods rank the "
        "layers alike.",
        capabilities=tuple(in_order(ranks["capability"], ())),
        protocols=tuple(in_order(ranks["protocol"], PROTOCOL_ORDER)),
        p=float(p[sure].max() if sure.any() else p.min()),
        items=f"{spread(ranks['n_items'])} items",
        test=f"the {'largest' if sure.any() else 'smallest'}; Spearman's correlation above 0, "
        f"{after_holm(len(ranks))}",
        details=ends if len(ranks) > 1 else ends[:1],
        source=source("method_agreement", {"measure": RANKS}),
    )]  # fmt: skip
