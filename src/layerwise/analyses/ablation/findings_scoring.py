"""Claims on the same questions asked in another way: scored in steps, and with a passage.

"Other layers", and that a passage protects, is said only where two layers turn round: some lose
more one way and others the other way. Else one way may only be harder.
"""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from layerwise.presentation.claim import (
    ESTABLISHED,
    OPEN,
    SCORING,
    Claim,
    Estimate,
    Evidence,
    source,
    spaced,
    weight,
)
from layerwise.presentation.naming import name_layer
from layerwise.presentation.over_run import LEVEL, family, together, which_hold
from layerwise.presentation.rows import layers_of, numbers, records, rows
from layerwise.presentation.wording import (
    RUNG_ORDER,
    capitalised,
    counted,
    in_order,
    interval,
    joined,
    layer_ranges,
    number,
    p_value,
    spread,
    spread_of,
    when,
)
from layerwise.stats.effects import ALPHA
from layerwise.stats.share_tests.equivalence import Interest
from layerwise.storage.run_tables import RunTables

from .saved_effects import done, kinds_and_sites, single_layers

Row = dict[str, Any]
# Ways of scoring that are no protocols.
_SCORED = {
    "choice": when("continuation"), "first token": "by the first token",
    "teacher forcing": "by teacher forcing",
}  # fmt: skip


def ladder_findings(run: RunTables) -> list[Claim]:
    """Other layers where they are established, steps that lose, and one sentence for the rest."""
    steps, layers = run.table("ladder_steps"), run.table("dissociations")
    if steps is None or layers is None:
        return []
    signal = run.table("signal")
    if signal is not None:  # of a task that the model cannot do under any protocol nothing is said
        able = rows(signal, signal=True)["task"].unique().tolist()
        steps = pd.DataFrame(steps.loc[steps["task"].isin(able)])
    if steps.empty:
        return []
    kind, site = kinds_and_sites(steps)[0]
    steps, layers = rows(steps, kind=kind, site=site), rows(layers, kind=kind, site=site)
    other = [_other_layers(row, layers, len(steps)) for row in _clearest(steps)]
    harder = [
        _steps_that_lose(part)
        for _, part in steps.groupby("task", sort=False)
        if len(_losing(part)) and rows(part, other_layers=True).empty
    ]
    quiet = rows(steps, other_layers=False)
    alike = [_no_other_layers(quiet)] if len(quiet) else []
    return spaced(other, 3) + spaced(harder, 3) + alike


def _clearest(steps: pd.DataFrame) -> list[Row]:
    """Of each task with other layers the comparison with the smallest p-value.

    Tables of earlier versions, which did not ask whether two layers turn round, earn none.
    """
    turned = steps.dropna(subset=["layer_first", "layer_second"])
    sure = rows(turned, other_layers=True).sort_values("p_other_layers", kind="stable")
    return records(sure.drop_duplicates("task"))


def _other_layers(row: Row, layers: pd.DataFrame, n_steps: int) -> Claim:
    where = {name: str(row[name]) for name in ("task", "first", "second", "kind", "site")}
    quoted = [int(row[name]) for name in ("layer_first", "layer_second")]
    both = [records(rows(layers, **where, layer=layer))[0] for layer in quoted]
    first, second = where["first"], where["second"]
    lost = tuple(
        f"{capitalised(done(row | {'layer': layer['layer']}))} loses {layer['only_first']} items "
        f"only {_scored(first)} and {layer['only_second']} only {_scored(second)}."
        for layer in both
    )
    size = min(both[0]["only_first"], both[1]["only_second"]) / max(row["n_common"], 1)
    return Claim(
        kind=SCORING, evidence=ESTABLISHED, importance=weight(1.0, size),
        short=f"For {row['task']}, the model needs other layers {_scored(second)} (most clearly "
        f"layer {name_layer(quoted[1])}) than {_scored(first)} (layer {name_layer(quoted[0])}).",
        capabilities=(str(row["capability"]),), tasks=(where["task"],), layers=tuple(quoted),
        p=float(row["p_other_layers_holm"]),
        test="one layer costs more one way, another the other way, Holm over layers and the "
        f"{counted(n_steps, 'comparison')} of the run",
        items=f"{spread_of([row['n_common']], 'item')} right both ways",
        details=(*lost, f"More {_scored(first)}: {_layers(row['layers_first'])}; "
                 f"more {_scored(second)}: {_layers(row['layers_second'])}."),
        source=source("dissociations", where, layer=quoted),
    )  # fmt: skip


def _scored(way: str) -> str:
    return _SCORED.get(way) or when(way)


def _layers(layers: Any) -> str:
    return f"layer{'s' * (len(layers) > 1)} {layer_ranges(layers)}"


def _losing(steps: pd.DataFrame) -> pd.DataFrame:
    """The steps from one rung to the next that cost significantly more."""
    sure = (steps["p_holm"] < 0.05) & (steps["difference"] > 0)
    return rows(pd.DataFrame(steps.loc[sure]), next_rung=True)


def _steps_that_lose(tests: pd.DataFrame) -> Claim:
    losing = records(_losing(tests))
    most, first = max(losing, key=lambda row: row["difference"]), records(tests)[0]
    cell = {name: str(first[name]) for name in ("task", "kind", "site")}
    shares = {
        row[end]: row[f"share_{end}"] for row in records(tests) for end in ("first", "second")
    }
    costs = (f"{name} {number(100 * shares[name])} %" for name in in_order(shares, RUNG_ORDER))
    steps = {end: [row[end] for row in losing] for end in ("first", "second")}
    added = tuple(
        f"From {row['first']} to {row['second']}: "
        f"{interval(*(100 * row[name] for name in ('difference', 'low', 'high')))} points more."
        for row in losing
    )
    return Claim(
        kind=SCORING, evidence=ESTABLISHED, importance=weight(0.9, float(most["difference"])),
        short=f"For {first['task']}, {done(first, 'one layer')} costs "
        f"{number(100 * most['difference'])} points more {_scored(most['second'])} than "
        f"{_scored(most['first'])}, on average.",
        capabilities=(str(first["capability"]),), tasks=(cell["task"],),
        p=max(float(row["p_holm"]) for row in losing),
        test="the largest; paired randomisation tests, Holm over the run",
        items=f"{spread(tests['n_items'])} items",
        details=(f"It costs of the above-floor accuracy: {joined(costs)}.", *added),
        caveat="Other layers are not shown to be needed: the scoring may only be harder.",
        source=source("ladder_steps", cell, **steps, next_rung=True),
    )  # fmt: skip


def _no_other_layers(quiet: pd.DataFrame) -> Claim:
    first = records(quiet)[0]
    where = {"kind": str(first["kind"]), "site": str(first["site"]), "other_layers": False}
    return Claim(
        kind=SCORING, evidence=OPEN, importance=weight(0.6, 0.0),
        short="That another way of scoring needs other layers is not established in "
        f"{counted(len(quiet), 'comparison')}.",
        tasks=tuple(in_order(quiet["task"], ())), source=source("ladder_steps", where),
        items=f"{spread_of(quiet['n_common'], 'item')} right both ways",
        details=(f"{capitalised(done(first, 'one layer'))} is not shown to cost more one way at "
                 "one layer and more the other way at another (Holm over layers and "
                 "comparisons).",),
    )  # fmt: skip


BOOKS = "open book"


def book_findings(run: RunTables) -> list[Claim]:
    """For each pair of tasks and protocol: what is protected, what reading needs, or neither."""
    books, pairs = run.table("books"), run.table("book_pairs")
    if books is None or pairs is None:
        return []
    layers = single_layers(books)
    if layers.empty:
        return []
    kind, site = kinds_and_sites(layers)[0]
    smallest = Interest.of(run.facts.settings).loss
    claims = []
    for pair in records(rows(pairs, kind=kind, site=site)):
        at = {name: str(pair[name]) for name in ("closed", "open", "protocol", "kind", "site")}
        own = rows(layers, **at)
        large = own.loc[numbers(own, "protected") >= smallest - 1e-9]
        small = own.loc[-numbers(own, "protected") >= smallest - 1e-9]
        sure = {"closed": rows(large, loses_more="closed"), "open": rows(small, loses_more="open")}
        some = any(map(len, sure.values()))
        claims.append(
            _protected(pair, sure, layers, at) if some else _not_protected(pair, own, smallest, at)
        )
    return spaced(claims, 3)


def _protected(pair: Row, sure: dict[str, pd.DataFrame], books: pd.DataFrame, at: Row) -> Claim:
    kind = "closed" if len(sure["closed"]) else "open"
    best = _best(sure[kind])
    both = bool(pair["both_sorts"]) and all(map(len, sure.values()))
    shown = [best, *([_best(sure["open"])] if both else [])]
    quoted = [int(row["layer"]) for row in shown]
    over_run = all(row["p_run"] < LEVEL for row in shown)
    more, less = ("without", "with") if kind == "closed" else ("with", "without")
    net, *ends = (100 * float(best[f"protected{end}"]) for end in ("", "_run_low", "_run_high"))
    low, high = sorted(ends) if kind == "closed" else sorted(-end for end in ends)
    why, caveat = _why(pair, sure, both)
    unit = f"points more {more} the passage (layer {name_layer(quoted[0])})"
    return Claim(
        kind=BOOKS, importance=weight(0.95 if both else 0.6, abs(float(best["protected"]))),
        short=f"{capitalised(when(at['protocol']))}, {done(best)} loses more answers of "
        f"{pair['closed']} {more} the passage than {less} it"
        f"{f', layer {name_layer(quoted[1])} fewer' if both else ''}.",
        evidence=Evidence.ESTABLISHED if over_run else Evidence.IN_TABLE,
        tasks=(at["closed"], at["open"]), protocols=(at["protocol"],), layers=tuple(quoted),
        estimate=Estimate(abs(net), low, high, unit, together(books)),
        p=max(float(row["p_run" if over_run else "p_corrected"]) for row in shown),
        test=f"exact test, {family(books) if over_run else 'Holm over the layers'}",
        items=f"{int(pair['n_common'])} items right both ways",
        details=(*_kept(pair, best, kind), *_margins(best), _others(sure, books), *why),
        caveat=caveat, source=source("books", at, layer=quoted),
    )  # fmt: skip


def _best(sure: pd.DataFrame) -> Row:
    return records(sure.sort_values("protected", key=abs, ascending=False, kind="stable"))[0]


def _kept(pair: Row, row: Row, kind: str) -> tuple[str, str]:
    given, other = ("With", "open") if kind == "closed" else ("Without", "closed")
    kept, lost = int(row[f"only_{kind}"]), int(row["lost_both"])
    return (
        f"{given} the passage, {kept} of the {counted(kept + lost, 'answer')} of {pair[kind]} that "
        f"{done(row)} loses are kept ({pair[other]}).",
        f"{counted(int(row[f'only_{other}']), 'answer')} lost the other way round.",
    )


def _margins(row: Row) -> tuple[str, ...]:
    """What the layer takes from the margin either way, which has no ceiling; not of free text."""
    if pd.isna(row["margin_closed"]):
        return ()
    closed, opened = (number(float(row[f"margin_{kind}"]), 1) for kind in ("closed", "open"))
    return (
        f"The margin above the best wrong option falls by {closed} nats without the passage and by "
        f"{opened} with it.",
    )


def _others(sure: dict[str, pd.DataFrame], books: pd.DataFrame) -> str:
    parts = [
        f"{_layers(layers_of(sort))} lose{'s' * (len(sort) == 1)} more {words}"
        for sort, words in (
            (sure["closed"], "without the passage"), (sure["open"], "with the passage"),
        )
        if len(sort)
    ]  # fmt: skip
    every = pd.concat(list(sure.values()))
    holding = which_hold(every, books, lambda table: layer_ranges(layers_of(table)))
    return f"{capitalised(joined(parts))}{holding}."


def _why(pair: Row, sure: dict[str, pd.DataFrame], both: bool) -> tuple[tuple[str, ...], str]:
    """What speaks for protection or against it, and what must not be concluded."""
    p = f"{p_value(pair['p_holm'])}, Holm over layers and pairs of tasks of the run"
    if both:
        return (
            "Layers cross: one loses more than another without the passage and less with it "
            f"({p}).",
            "So it is neither only that the passage makes the questions easier nor that one layer "
            "matters more than another either way.",
        ), ""
    if all(map(len, sure.values())):
        return (
            f"That layers cross is not established ({p}).",
        ), "The passage may only change how easy the questions are."
    way, word = ("easier", "with") if len(sure["closed"]) else ("harder", "without")
    return (f"No layer is shown to lose more {word} the passage.",), (
        f"So it may only make the questions {way}: this does not say where knowledge is."
    )


def _not_protected(pair: Row, tests: pd.DataFrame, smallest: float, at: Row) -> Claim:
    luck = max(float(numbers(tests, name).max()) for name in ("luck_closed", "luck_open"))
    least = math.ceil(math.log(2 * len(tests) / ALPHA) / math.log(2 - min(luck, 0.999)) - 1e-9)
    return Claim(
        kind=BOOKS, evidence=Evidence.OPEN, importance=weight(0.4, 0.0), source=source("books", at),
        short=f"That the passage of {pair['open']} protects answers of {pair['closed']} is not "
        f"established {when(at['protocol'])}.",
        tasks=(at["closed"], at["open"]), protocols=(at["protocol"],),
        items=f"{int(pair['n_common'])} items right both ways",
        details=(
            f"{capitalised(done(pair, 'one layer'))} is not shown to lose {100 * smallest:.3g} "
            "points or more, net, of the answers one way (exact tests, Holm over "
            f"{counted(len(tests), 'layer')}).",
            f"At least {least} would have to be lost one way and none the other.",
        ),
    )  # fmt: skip
