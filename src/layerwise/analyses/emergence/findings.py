"""Claims on depths, their order, and whether protocols and methods agree."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from layerwise.analyses.shared.lens_names import FEWER_RIVALS, LENS_ORDER
from layerwise.ground.layer_names import COMPUTATION
from layerwise.presentation.claim import (
    ESTABLISHED,
    IN_TABLE,
    LENS,
    OPEN,
    ORDER,
    SCORING,
    Claim,
    Estimate,
    most_important,
    source,
    weight,
)
from layerwise.presentation.naming import name_layer, stacks
from layerwise.presentation.over_run import LEVEL, holm_text
from layerwise.presentation.rows import numbers, parts, records, rows
from layerwise.presentation.wording import (
    CAPABILITY_ORDER,
    PROTOCOL_ORDER,
    capitalise,
    count_noun,
    count_range,
    few_layers,
    in_order,
    interval,
    join_words,
    number,
    p_value,
    protocol_phrase,
    protocol_words,
    spread,
)
from layerwise.stats.depth.layer_curves import ABLATION, ATTRIBUTION, PATCHING
from layerwise.storage.run_tables import RunTables

from .difficulty_words import order_accuracy_sentence, orders_accuracy_sentence

AGREEMENT = "agreement"
HALF, RANKS = "half-effect depth", "rank correlation"
_ENDS = ("difference", "low", "high")
# By these no order is claimed: an answer with fewer rivals is read earlier.
_LENSES = [f"{name} lens" for name in LENS_ORDER]
# An interval over more of the depth than this names no place.
_WIDEST = 0.5
# What each method says of the layer in which half of its effect is reached.
_DOES = {
    ABLATION: "needed around", ATTRIBUTION: "written around",
    "logit lens": "readable by logit lens after", PATCHING: "decided around",
}  # fmt: skip
Row = dict[str, Any]


def findings(run: RunTables) -> list[Claim]:
    """Depths and order of capabilities, and whether protocols and methods agree."""
    finders = (interactions, orders, different_depth_claims, lens_depths, agreements)
    return [finding for finder in finders for finding in finder(run)]


def interactions(run: RunTables) -> list[Claim]:
    """One sentence per capability whose profile changes with the protocol, and one for the rest."""
    table = run.table("protocol_interaction")
    if table is None:
        return []
    n_tests = len(table[["capability", "first", "second"]].drop_duplicates())
    sure = table.loc[table["p_holm"] < LEVEL]
    by_capability = sure.groupby("capability", sort=False)
    differ = [_depends(part, n_tests, len(table)) for _, part in by_capability]
    quiet = table.loc[~table["capability"].isin(sure["capability"])]
    return most_important(differ, 2) + ([_no_interaction(quiet, n_tests)] if len(quiet) else [])


def _depends(sure: pd.DataFrame, n_tests: int, n_rows: int) -> Claim:
    """The group of layers whose gap is the widest, of the pair of protocols with the smallest p."""
    pairs = [part for _, part in sure.groupby(["first", "second"], sort=False)]
    best = min(pairs, key=lambda pair: (pair["p_holm"].iloc[0], -_largest_deviation(pair)))
    gap = numbers(best, "difference")
    sign = -1 if -gap.min() > gap.max() else 1  # from the side on which the widest gap loses more
    groups = records(best.sort_values("difference", kind="stable"))[::sign]
    most = groups[-1]
    where = {name: str(most[name]) for name in ("capability", "first", "second")}
    pair = (where["first"], where["second"])
    (more, less), sides = pair[::sign], ("first", "second")[::sign]
    bounds = {str(row["group"]): _simultaneous_gap(row, sign, n_rows) for row in groups}
    wider = [name for name, (_, low, _) in bounds.items() if low > 0]
    listed = join_words(f"{row['group']} {interval(*bounds[str(row['group'])])}"
                    for row in records(best))  # fmt: skip
    costs = [f"{number(100 * most[f'share_{side}'])} %" for side in sides]
    short = (
        f"For {most['capability']}, skipping one of {few_layers(list(most['layers']))} costs "
        f"{costs[0]} of the score {protocol_phrase(more)}, {costs[1]} {protocol_phrase(less)}."
    )
    if str(most["group"]) not in wider:
        short = (
            f"For {most['capability']}, how much more a skipped layer costs "
            f"{protocol_phrase(more)} than "
            f"{protocol_phrase(less)} varies with depth."
        )
    return Claim(
        kind=SCORING, evidence=ESTABLISHED, importance=weight(0.92, 2 * _largest_deviation(best)),
        short=short,
        capabilities=(where["capability"],), protocols=pair, p=float(most["p_holm"]),
        items=f"{most['n_items']} items",
        test=f"interaction of way of scoring and layer group, {holm_text(n_tests)}",
        estimate=Estimate(*bounds[str(most["group"])], f"% of the score more "
f"{protocol_phrase(more)}, in "
                          f"{most['group']} layers", f"bounds for all {n_rows} gaps together"),
        details=(f"In % of the score, how much more is lost {protocol_phrase(more)}: {listed}.",
                 f"It is established to be more in {join_words(wider) or 'no'} layers."),
        caveat="That other layers are needed does not follow: a harder way of scoring loses more "
        "wherever something is lost.",
        source=source("protocol_interaction", where, group=str(most["group"])),
    )  # fmt: skip


def _simultaneous_gap(row: Row, sign: int, n_rows: int) -> tuple[float, float, float]:
    """A group's gap in % of the score, its 95 % bounds widened to hold for all gaps together."""
    from scipy.special import ndtri  # not on top: a page loads no scipy

    # As many standard errors as a normal needs (Bonferroni); a table keeps no resamples.
    wider = float(ndtri(0.025 / n_rows) / ndtri(0.025))
    gap, *ends = (100 * sign * float(row[end]) for end in _ENDS)
    low, high = (gap + wider * (end - gap) for end in sorted(ends))
    return gap, low, high


def _largest_deviation(pair: pd.DataFrame) -> float:
    """Distance of the differences of groups from their mean, at most."""
    difference = numbers(pair, "difference")
    return float(np.abs(difference - difference.mean()).max())


def _no_interaction(quiet: pd.DataFrame, n_tests: int) -> Claim:
    capabilities = in_order(quiet["capability"], ())
    pairs = in_order(zip(quiet["first"], quiet["second"], strict=True), ())
    compared = (" against ".join(map(protocol_words, pair)) for pair in pairs)
    return Claim(
        kind=SCORING, evidence=OPEN, importance=weight(0.5, 0.0),
        capabilities=tuple(capabilities),
        short="That two ways of scoring differ more at some depths than at others is not "
        f"established for {join_words(capabilities)}.",
        p=float(numbers(quiet, "p_holm").min()), items=f"{spread(quiet['n_items'])} items",
        test=f"the smallest; interaction with the layer group, {holm_text(n_tests)}",
        details=(f"{capitalise(join_words(compared))} were compared.",),
        protocols=tuple(in_order([name for pair in pairs for name in pair], PROTOCOL_ORDER)),
        source=source("protocol_interaction", {"capability": capabilities}),
    )  # fmt: skip


def orders(run: RunTables) -> list[Claim]:
    """Orders of capabilities, contradictions between tests, and what was not established."""
    order = run.table("order")
    if order is None:
        return []
    established, contrary, unordered = [], [], []
    claimed = order.loc[~order["method"].isin(_LENSES)]
    for _, pair in claimed.groupby(["first", "second"], sort=False):
        sure = records(rows(pair, significant=True))
        if not sure:
            unordered.append(pair)
        elif len({row["difference"] < 0 for row in sure}) > 1:
            contrary.append(_contrary(sure, len(pair), len(order), run))
        else:
            established.append(_order_claim(pair, sure, run, len(order)))
    no_order = [_no_order(unordered, len(order))] if unordered else []
    return most_important(established, 3) + most_important(contrary, 3) + no_order


def _contrary(sure: list[Row], n_tests: int, n_run: int, run: RunTables) -> Claim:
    """Significant tests that say both orders, with the clearest of either."""
    names, clearest, details = (str(sure[0]["first"]), str(sure[0]["second"])), [], []
    for sign in (1, -1):
        row = min((row for row in sure if sign * row["difference"] >= 0), key=lambda r: r["p_holm"])
        before, after = names[::sign]
        clearest.append(row)
        details.append(
            f"{capitalise(before)} comes before {after} by {row['method']} "
            f"{protocol_phrase(row['protocol'])} ({row['measure']}, {p_value(row['p_holm'])} "
            f"{holm_text(n_run)})."
        )
    return Claim(
        kind=ORDER, evidence=ESTABLISHED, importance=weight(0.7, 0.0), capabilities=names,
        short=f"Whether {names[0]} or {names[1]} comes first depends on how it is measured.",
        protocols=tuple(in_order([str(row["protocol"]) for row in clearest], PROTOCOL_ORDER)),
        details=(*details, f"{len(sure)} of {count_noun(n_tests, 'test')} of this pair are "
                 "significant.", *filter(None, [orders_accuracy_sentence(clearest, run).strip()])),
        source=source("order", dict(zip(("first", "second"), names, strict=True))),
    )  # fmt: skip


def _order_claim(pair: pd.DataFrame, sure: list[Row], run: RunTables, n_run: int) -> Claim:
    """One order, told from the earlier side by its clearest test."""
    best = min(sure, key=lambda row: (row["p_holm"], -abs(row["difference"])))
    names, sign = [str(best["first"]), str(best["second"])], -1 if best["difference"] < 0 else 1
    earlier, later = names[::sign]
    ahead, *ends = (sign * best[end] for end in _ENDS)
    at = {name: str(best[name]) for name in ("protocol", "method", "measure")}
    beyond, only = "", ""
    if isinstance(best.get("shared"), list):  # of ablation, which layers may cost both is left out
        shared = best["shared"]
        beyond = ", beyond the layers they may share" if shared else ""
        without = f", without {few_layers(shared)}, which may cost both" if shared else ""
        only = f"It is of what layers cost beyond what any layer costs{without}."
    emergence = run.table("emergence")
    known = pd.DataFrame() if emergence is None else rows(emergence, **at, axis=COMPUTATION)
    n_items = {row["capability"]: row["n_items"] for row in records(known)}
    n_sure = f"{len(sure)} {'is' if len(sure) == 1 else 'are'} significant"
    return Claim(
        kind=ORDER, evidence=ESTABLISHED, importance=weight(0.9, 3 * abs(ahead)),
        short=f"By {at['method']}{beyond}, {earlier} comes before {later} "
        f"{protocol_phrase(at['protocol'])}, {_layers_earlier(ahead, run.facts.model.n_layers)}.",
        capabilities=(earlier, later), protocols=(at["protocol"],), p=float(best["p_holm"]),
        test=f"order of the {at['measure']}, {holm_text(n_run)}",
        estimate=Estimate(ahead, min(ends), max(ends), "of the model's depth earlier", digits=2),
        items=f"{n_items[earlier]} items of {earlier} and {n_items[later]} of {later}",
        details=tuple(filter(None, (
            f"Of {count_noun(len(pair), 'test')} of this pair, {n_sure}, "
            f"{'all ' * (len(sure) > 1)}in this direction.",
            only,
            order_accuracy_sentence(best, run, sign < 0).strip(),
        ))),
        source=source("order", {"first": names[0], "second": names[1]}, **at),
    )  # fmt: skip


def _layers_earlier(ahead: float, n_layers: int) -> str:
    """``"about 10 of 30 layers earlier"``, of a share of the way from the first to the last."""
    n_earlier = ahead * max(n_layers - 1, 1)
    return f"about {number(n_earlier, 0 if n_earlier >= 1 else 1)} of {n_layers} layers earlier"


def _no_order(unordered: list[pd.DataFrame], n_run: int) -> Claim:
    """Pairs without a significant test of order, and what their tests found instead."""
    tests = pd.concat(unordered)
    pairs = in_order(zip(tests["first"], tests["second"], strict=True), ())
    named = [" and ".join(pair) for pair in pairs]
    p, (difference, low, high) = numbers(tests, "p_holm"), (numbers(tests, end) for end in _ENDS)
    away, unsure = (low > 0) | (high < 0), (p >= LEVEL) & np.isfinite(difference)
    outcomes = {
        f"{'is' if unsure.sum() == 1 else 'are'} not significant": unsure,
        "found nothing that one of both is shown to need alone": np.isnan(difference),
        "found two different depths, but not which of them comes first": (p < LEVEL) & ~away,
        "found a difference too small to be of interest": (p < LEVEL) & away,
    }
    several = len(pairs) > 1
    first, second = (list(names) for names in zip(*pairs, strict=True))
    return Claim(
        kind=ORDER, evidence=OPEN, importance=weight(0.55, 0.0),
        source=source("order", {"first": first, "second": second}),
        short="Which capability comes first is open: no order is established "
        f"{f'in {len(pairs)} pairs' if several else f'between {named[0]}'}.",
        capabilities=tuple(dict.fromkeys(name for pair in pairs for name in pair)),
        details=(*([f"The pairs: {'; '.join(named)}."] if several else []),
                 *(f"{each.sum()} of {count_noun(len(tests), 'test')} {words}."
                   for words, each in outcomes.items() if each.any())),
        p=float(p.min()) if (p >= LEVEL).all() else None,
        test=f"the smallest, {holm_text(n_run)}",
    )  # fmt: skip


def different_depth_claims(run: RunTables) -> list[Claim]:
    """Capabilities whose tasks lie at depths that are shown to differ: no one depth is theirs."""
    emergence = run.table("emergence")
    if emergence is None:
        return []
    claims = []
    for row in records(emergence.dropna(subset=["p_tasks"])):
        where = {name: str(row[name]) for name in ("capability", "protocol", "method", "measure")}
        first, last = str(row["task_first"]), str(row["task_last"])
        early, late = (name_layer(round(row[f"layer_{end}"])) for end in ("first", "last"))
        claims.append(Claim(
            kind=ORDER, evidence=ESTABLISHED,
            importance=weight(0.8, abs(row["layer_last"] - row["layer_first"]) / 10),
            short=f"Suites of {row['capability']} disagree on its depth "
f"{protocol_phrase(where['protocol'])}: "
            f"by {row['method']}, {first} lies around layer {early}, {last} around layer {late}.",
            capabilities=(where["capability"],), tasks=(first, last),
            protocols=(where["protocol"],),
            p=float(row["p_tasks"]), items=count_noun(int(row["n_items"]), "item"),
            test=f"order of the {row['measure']} of two suites, after Holm's correction over all "
            "such pairs of the run",
            caveat=f"So the depth of {row['capability']} is a mean of places that differ.",
            source=source("emergence", {**where, "axis": COMPUTATION}),
        ))  # fmt: skip
    return most_important(claims, 3)


def lens_depths(run: RunTables) -> list[Claim]:
    """Per protocol, the layer at which half of the rise of the answer is reached."""
    emergence = run.table("emergence")
    if emergence is None:
        return []
    where, claims = {"method": "logit lens", "measure": HALF, "axis": COMPUTATION}, []
    for (protocol,), depths in parts(rows(emergence, **where), protocol=PROTOCOL_ORDER):
        names = in_order(depths["capability"], CAPABILITY_ORDER)
        by_depth = records(depths.sort_values("estimate", kind="stable"))
        first, last = (name_layer(round(by_depth[end]["layer"])) for end in (0, -1))
        ends = f"{first} ({by_depth[0]['capability']}) and {last} ({by_depth[-1]['capability']})"
        at = (
            f"between layers {ends}" if first != last else f"at layer {first} ({join_words(names)})"
        )
        claims.append(Claim(
            kind=LENS, evidence=IN_TABLE,
            importance=weight(0.6, by_depth[-1]["estimate"] - by_depth[0]["estimate"]),
            short=f"By the logit lens, the answer's probability has risen halfway {at} "
            f"{protocol_phrase(protocol)}.",
            capabilities=tuple(names), protocols=(protocol,),
            details=tuple(_depth(row["capability"], row) for row in by_depth),
            items=f"{count_range(depths['n_items'], 'item')} a capability",
            caveat="It reads only items whose answer begins as no other option does. "
            f"{capitalise(FEWER_RIVALS)}.",
            source=source("emergence", where | {"protocol": protocol}),
        ))  # fmt: skip
    return most_important(claims, 2)


def agreements(run: RunTables) -> list[Claim]:
    """Depth of a capability by each method, side by side, and how ranks go together."""
    emergence, methods = run.table("emergence"), run.table("method_agreement")
    claims = [] if emergence is None else _side_by_side(emergence)
    ranks = pd.DataFrame() if methods is None else rows(methods, measure=RANKS)
    return claims + ([_ranks(ranks)] if len(ranks) else [])


def _side_by_side(emergence: pd.DataFrame) -> list[Claim]:
    """One claim for each capability that several methods place, which ask different things."""
    depths, claims = rows(emergence, measure=HALF, axis=COMPUTATION), []
    for capability, of_capability in depths.groupby("capability", sort=False):
        protocol = str(of_capability["protocol"].value_counts().idxmax())
        placed = records(rows(of_capability, protocol=protocol))
        placed = [row for row in placed if row["high"] - row["low"] <= _WIDEST]
        words = [f"{does} {_place(row)}" for method, does in _DOES.items()
                 for row in placed if row["method"] == method]  # fmt: skip
        if len(words) < 2:
            continue
        claims.append(Claim(
            kind=AGREEMENT, short=f"{capitalise(str(capability))} is {join_words(words)}.",
            evidence=IN_TABLE, importance=0.55, protocols=(protocol,),
            capabilities=(str(capability),),
            details=tuple(_depth(f"by {row['method']}", row) for row in placed),
            items=f"{spread(row['n_items'] for row in placed)} items",
            caveat="Half of the effect lies before each; the methods ask different things.",
            source=source("emergence", {"measure": HALF, "axis": COMPUTATION,
                                        "capability": capability, "protocol": protocol}),
        ))  # fmt: skip
    return claims


def _depth(what: str, row: Row) -> str:
    """A layer with its interval, counted as layers compute."""
    layers = interval(row["layer"], row["layer_low"], row["layer_high"], 1)
    order = " in order of computation" if stacks().n_encoder else ""
    return f"{capitalise(what)}: layer {layers}{order}."


def _place(row: Row) -> str:
    """The layer of half of the effect, or those of two suites that disagree."""
    if pd.isna(row["p_tasks"]):
        return f"layer {name_layer(round(row['layer']))}"
    first, last = (name_layer(round(row[f"layer_{end}"])) for end in ("first", "last"))
    return f"layers {first} or {last}"


def _ranks(ranks: pd.DataFrame) -> Claim:
    """In how many comparisons two methods rank the layers alike."""
    p = numbers(ranks, "p_holm")
    sure = (p < LEVEL) & (numbers(ranks, "estimate") > 0)
    return Claim(
        kind=AGREEMENT, evidence=ESTABLISHED if sure.any() else OPEN,
        importance=weight(0.55, float(sure.mean())),
        short=f"In {int(sure.sum())} of {count_noun(len(ranks), 'comparison')} two methods "
f"rank the "
        "layers alike.",
        capabilities=tuple(in_order(ranks["capability"], ())),
        protocols=tuple(in_order(ranks["protocol"], PROTOCOL_ORDER)),
        p=float(p[sure].max() if sure.any() else p.min()),
        items=f"{spread(ranks['n_items'])} items",
        test=f"the {'largest' if sure.any() else 'smallest'}; Spearman's correlation above 0, "
        f"{holm_text(len(ranks))}",
        source=source("method_agreement", {"measure": RANKS}),
    )  # fmt: skip
