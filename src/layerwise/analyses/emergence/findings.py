"""Claims on depths, their order, and the agreement of methods.

They read order tests; no test is made here. An order becomes a claim where all significant tests
of a pair say the same one; centres of mass are not tested.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from layerwise.analyses.shared.difficulty_words import beside_order, beside_orders
from layerwise.ground.layer_names import COMPUTATION
from layerwise.presentation.claim import (
    IN_TABLE,
    LENS,
    ORDER,
    Claim,
    Estimate,
    Evidence,
    source,
    spaced,
    weight,
)
from layerwise.presentation.naming import name_layer, stacks
from layerwise.presentation.over_run import after_holm
from layerwise.presentation.rows import numbers, records, rows
from layerwise.presentation.wording import (
    CAPABILITY_ORDER,
    PROTOCOL_ORDER,
    capitalised,
    counted,
    few_layers,
    in_order,
    interval,
    joined,
    number,
    p_value,
    when,
)
from layerwise.storage.run_tables import RunTables

from .findings_methods import agreements, interactions


def lens_depths(run: RunTables) -> list[Claim]:
    """Per protocol, the layer at which half of the rise of the answer is reached."""
    emergence = run.table("emergence")
    if emergence is None:
        return []
    where = {"method": "logit lens", "measure": "half-effect depth", "axis": COMPUTATION}
    table = rows(emergence, **where)
    claims = []
    for protocol in in_order(table["protocol"], PROTOCOL_ORDER):
        place = {**where, "protocol": protocol}
        claims.append(_lens_depth(rows(table, protocol=protocol), place, run))
    return spaced(claims, 2)


def _lens_depth(depths_of: pd.DataFrame, where: dict[str, str], run: RunTables) -> Claim:
    names = in_order(depths_of["capability"], CAPABILITY_ORDER)
    depths = sorted(records(depths_of), key=lambda row: row["estimate"])
    first, last = (name_layer(round(depths[end]["layer"])) for end in (0, -1))
    ends = f"{first} ({depths[0]['capability']}) and {last} ({depths[-1]['capability']})"
    at = f"between layers {ends}" if first != last else f"at layer {first} ({joined(names)})"
    spread = depths[-1]["estimate"] - depths[0]["estimate"]
    return Claim(
        kind=LENS, evidence=IN_TABLE, importance=weight(0.6, spread),
        short=f"By the logit lens, the answer's probability has risen halfway {at} "
        f"{when(where['protocol'])}.",
        capabilities=tuple(names), protocols=(where["protocol"],),
        details=tuple(_depth(records(rows(depths_of, capability=name))[0], run) for name in names),
        source=source("emergence", where),
    )  # fmt: skip


def _depth(row: dict[str, Any], run: RunTables) -> str:
    layers = interval(row["layer"], row["layer_low"], row["layer_high"], 1)
    order = " in order of computation" if stacks().n_encoder else ""
    name = capitalised(str(row["capability"]))
    return f"{name}: layer {layers}{order} (n = {row['n_items']}{_read(row, run)})."


def _read(row: dict[str, Any], run: RunTables) -> str:
    """Of how many items the answer's first token tells it from the other options, if not of all."""
    tasks = row["tasks"].split(",")
    n_asked = sum(task.n_items for task in run.facts.tasks if task.name in tasks)
    if n_asked <= row["n_items"]:
        return ""
    return f" of {n_asked} items, those whose answer begins as no other option does"


_LEVEL = 0.05
Row = dict[str, Any]


def orders(run: RunTables) -> list[Claim]:
    """What comes before what, where tests contradict each other, and what was not established."""
    order = run.table("order")
    if order is None:
        return []
    established, contrary, open_pairs = [], [], []
    names = in_order(zip(order["first"], order["second"], strict=True), ())
    for first, second in names:
        pair = rows(order, first=first, second=second)
        sure = records(rows(pair, significant=True))
        if not sure:
            open_pairs.append((first, second))
        elif len({row["difference"] < 0 for row in sure}) > 1:
            contrary.append(_contrary(sure, len(pair), len(order), run))
        else:
            established.append(_before(pair, sure, run, len(order)))
    return [
        *spaced(established, 3),
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
    each_way = (
        f"{capitalised(before)} comes before {after} by {row['method']} {when(row['protocol'])} "
        f"({row['measure']}, {p_value(row['p_holm'])} {after_holm(n_run)})."
        for row, (before, after) in zip(clearest, ((first, second), (second, first)), strict=True)
    )
    return Claim(
        kind=ORDER, evidence=Evidence.ESTABLISHED, importance=weight(0.7, 0.0),
        capabilities=(first, second),
        short=f"Whether {first} or {second} comes first depends on how it is measured.",
        protocols=tuple(in_order([str(row["protocol"]) for row in clearest], PROTOCOL_ORDER)),
        details=(*each_way,
                 f"{len(sure)} of {counted(n_tests, 'test')} of this pair are significant.",
                 *filter(None, [beside_orders(clearest, run).strip()])),
        source=source("order", {"first": first, "second": second}),
    )  # fmt: skip


def _before(pair: pd.DataFrame, sure: list[Row], run: RunTables, n_run: int) -> Claim:
    best = min(sure, key=lambda row: (row["p_holm"], -abs(row["difference"])))
    flipped = best["difference"] < 0
    names = [str(best["first"]), str(best["second"])]
    earlier, later = names[::-1] if flipped else names
    bounds = (best["difference"], best["low"], best["high"])
    ahead = (-bounds[0], -bounds[2], -bounds[1]) if flipped else bounds
    at = {name: str(best[name]) for name in ("protocol", "method", "measure")}
    return Claim(
        kind=ORDER, evidence=Evidence.ESTABLISHED, importance=weight(0.9, 3 * abs(bounds[0])),
        short=f"By {at['method']}{_beyond(best)}, {earlier} comes before {later} "
        f"{when(at['protocol'])}, by {number(100 * ahead[0])} % of the model's depth.",
        capabilities=(earlier, later), protocols=(at["protocol"],), p=float(best["p_holm"]),
        test=f"order of the {at['measure']}, {after_holm(n_run)}",
        estimate=Estimate(*ahead, "of the model's depth earlier", digits=2),
        items=_items(best, earlier, later, run),
        details=tuple(filter(None, (
            f"Of {counted(len(pair), 'test')} of this pair, {len(sure)} {_are(len(sure))} "
            f"significant, {'all ' * (len(sure) > 1)}in this direction.",
            _left_out(best),
            beside_order(best, run, flipped).strip(),
        ))),
        source=source("order", {"first": names[0], "second": names[1]}, **at),
    )  # fmt: skip


def _beyond(row: Row) -> str:
    return ", beyond the layers they share" if _shared(row) else ""


def _left_out(row: Row) -> str:
    """What an order by ablation is of."""
    shared = _shared(row)
    if shared is None:
        return ""
    without = f", without {few_layers(shared)}, which cost both" if shared else ""
    return f"It is of what layers cost beyond what any layer costs{without}."


def _shared(row: Row) -> list[int] | None:
    return row["shared"] if isinstance(row.get("shared"), list) else None


def _items(best: Row, earlier: str, later: str, run: RunTables) -> str:
    emergence = run.table("emergence")
    assert emergence is not None
    keys = {name: best[name] for name in ("protocol", "method", "measure")}
    keys["axis"] = COMPUTATION
    counts = [
        int(rows(emergence, capability=name, **keys)["n_items"].iloc[0])
        for name in (earlier, later)
    ]
    return f"{counts[0]} items of {earlier} and {counts[1]} of {later}"


def _not_established(order: pd.DataFrame, pairs: list[tuple[str, str]]) -> Claim:
    named = [f"{first} and {second}" for first, second in pairs]
    pair_rows = pd.concat([rows(order, first=first, second=second) for first, second in pairs])
    where = {"first": [a for a, _ in pairs], "second": [b for _, b in pairs]}
    p, several = numbers(pair_rows, "p_holm"), len(pairs) > 1
    away = (numbers(pair_rows, "low") > 0) | (numbers(pair_rows, "high") < 0)
    nothing = np.isnan(numbers(pair_rows, "difference"))
    unsure, either, small = p >= _LEVEL, (p < _LEVEL) & ~away, (p < _LEVEL) & away
    left = unsure & ~nothing
    tests = {
        f"{_are(int(left.sum()))} not significant": left,
        "found nothing that one of both needs beyond the layers they share": nothing,
        "found two different depths, but not which of them comes first": either,
        "found a difference too small to be of interest": small,
    }
    return Claim(
        kind=ORDER, evidence=Evidence.OPEN, importance=weight(0.55, 0.0),
        source=source("order", where),
        short="Which capability comes first is open: no order is established "
        f"{f'in {len(pairs)} pairs' if several else f'between {named[0]}'}.",
        capabilities=tuple(dict.fromkeys(name for pair in pairs for name in pair)),
        details=(*([f"The pairs: {'; '.join(named)}."] if several else []),
                 *(f"{each.sum()} of {counted(len(pair_rows), 'test')} {words}."
                   for words, each in tests.items() if each.any())),
        estimate=_left_open(pd.DataFrame(pair_rows.loc[either])),
        p=float(p.min()) if unsure.all() else None,
        test=f"the smallest, {after_holm(len(order))}",
    )  # fmt: skip


def _left_open(pair_rows: pd.DataFrame) -> Estimate | None:
    """What the surest test that finds two different depths leaves open of their difference."""
    for row in records(
        pair_rows.sort_values("p_holm", kind="stable").dropna(subset=["low", "high"])
    ):
        unit = f"of the model's depth that {row['second']} lies behind {row['first']}, by "
        unit += f"{row['method']} {when(row['protocol'])}"
        return Estimate(row["difference"], row["low"], row["high"], unit, digits=2)
    return None


def suites_apart(run: RunTables) -> list[Claim]:
    """Capabilities whose tasks lie at depths that are shown to differ: no one depth is theirs."""
    emergence = run.table("emergence")
    if emergence is None:
        return []
    return spaced([_apart(row) for row in records(emergence.dropna(subset=["p_tasks"]))], 3)


def _apart(row: Row) -> Claim:
    where = {name: str(row[name]) for name in ("capability", "protocol", "method", "measure")}
    ends = [(str(row[f"task_{end}"]), row[f"layer_{end}"]) for end in ("first", "last")]
    (first, early), (last, late) = ((task, name_layer(round(at))) for task, at in ends)
    return Claim(
        kind=ORDER, evidence=Evidence.ESTABLISHED,
        importance=weight(0.8, abs(ends[1][1] - ends[0][1]) / 10),
        short=f"Suites of {row['capability']} disagree {when(where['protocol'])}: by "
        f"{row['method']}, {first} lies around layer {early}, {last} around layer {late}.",
        capabilities=(where["capability"],), tasks=(first, last), protocols=(where["protocol"],),
        p=float(row["p_tasks"]), items=counted(int(row["n_items"]), "item"),
        test=f"order of the {row['measure']} of two suites, after Holm's correction over all such "
        "pairs of the run",
        caveat=f"So the depth of {row['capability']} is a mean of places that differ.",
        source=source("emergence", {**where, "axis": COMPUTATION}),
    )  # fmt: skip


def _are(n: int) -> str:
    return "is" if n == 1 else "are"


_FINDERS = (interactions, orders, suites_apart, lens_depths, agreements)


def findings(run: RunTables) -> list[Claim]:
    """Where capabilities emerge and in which order, and whether protocols and methods agree."""
    return [finding for finder in _FINDERS for finding in finder(run)]
