"""Claims on scoring steps and passages.

Different layers are needed only if the order of two layers reverses; else one way may be harder.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from layerwise.presentation.claim import (
    ESTABLISHED,
    IN_TABLE,
    OPEN,
    SCORING,
    Claim,
    Estimate,
    most_important,
    source,
    weight,
)
from layerwise.presentation.naming import name_layer
from layerwise.presentation.over_run import LEVEL, family_text, run_bounds_text
from layerwise.presentation.rows import layers_in, numbers, records, rows
from layerwise.presentation.wording import (
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
from layerwise.stats.effects import ALPHA
from layerwise.stats.share_tests.equivalence import SmallestEffects
from layerwise.stats.signals.least_to_lose import LEAST_TO_LOSE
from layerwise.storage.run_tables import RunTables

from ..tables.saved_effects import intervention_words, kinds_and_sites, single_layers

Row = dict[str, Any]
PASSAGES = "open book"
# Scoring steps that are no protocols, and what is meant.
_SCORED = {
    "choice": protocol_phrase("continuation"), "first token": "when only the first word counts",
    "teacher forcing": "when each word counts",
}  # fmt: skip
_MEANT = {
    "first token": "The first word is the first token of the right answer, which must be the "
    "likeliest of all.",
    "teacher forcing": "Each word: every token of the right answer must be the likeliest, given "
    "those before it (teacher forcing).",
}


def step_findings(run: RunTables) -> list[Claim]:
    """Other layers where they are established, steps that lose, and one sentence for the rest."""
    steps, layers, signal = map(run.table, ("ladder_steps", "dissociations", "signal"))
    if steps is None or layers is None:
        return []
    if signal is not None:  # of a task that the model cannot do under any protocol nothing is said
        steps = rows(steps, task=list(rows(signal, signal=True)["task"]))
    if steps.empty:
        return []
    kind, site = kinds_and_sites(steps)[0]
    steps, layers = rows(steps, kind=kind, site=site), rows(layers, kind=kind, site=site)
    apart, quiet = (rows(steps, other_layers=other) for other in (True, False))
    known = _enough_to_lose(run, steps)
    clearest = apart.sort_values("p_other_layers", kind="stable").drop_duplicates("task")
    other = [_other_layers(row, layers, len(steps)) for row in records(clearest)]
    loses = (steps["p_holm"] < ALPHA) & (steps["difference"] > 0) & steps["next_rung"] & known
    losing = steps.loc[loses & ~steps["task"].isin(apart["task"])]
    harder = [_steps_that_lose(part) for _, part in losing.groupby("task", sort=False)]
    alike = [_no_other_layers(quiet)] if len(quiet) else []
    return most_important(other, 3) + most_important(harder, 3) + alike


def _enough_to_lose(run: RunTables, steps: pd.DataFrame) -> pd.Series:
    """Steps at both ends of which the model has enough right answers above the floor."""
    table = run.table("ladder")
    if table is None:
        return pd.Series(False, steps.index)
    above = table["n_items"] * (table["intact"] - table["floor"])
    enough = dict(zip(zip(table["task"], table["rung"], strict=True),
                      above >= LEAST_TO_LOSE - 1e-9, strict=True))  # fmt: skip
    return pd.Series(
        [all(enough.get((row["task"], row[end]), False) for end in ("first", "second"))
         for row in records(steps)], steps.index,
    )  # fmt: skip


def _other_layers(row: Row, layers: pd.DataFrame, n_steps: int) -> Claim:
    where = {name: str(row[name]) for name in ("task", "first", "second", "kind", "site")}
    quoted = [int(row[name]) for name in ("layer_first", "layer_second")]
    one, two = (records(rows(layers, **where, layer=layer))[0] for layer in quoted)
    first, second = (_scoring_words(where[end]) for end in ("first", "second"))
    size = min(one["only_first"], two["only_second"]) / max(row["n_common"], 1)
    return Claim(
        kind=SCORING, evidence=ESTABLISHED, importance=weight(1.0, size),
        short=f"For {row['task']}, the model needs other layers {second} (most clearly "
        f"layer {name_layer(quoted[1])}) than {first} (layer {name_layer(quoted[0])}).",
        capabilities=(str(row["capability"]),), tasks=(where["task"],), layers=tuple(quoted),
        p=float(row["p_other_layers_holm"]),
        test="one layer costs more one way, another the other way, Holm over layers and the "
        f"{count_noun(n_steps, 'comparison')} of the run",
        items=f"{count_range([row['n_common']], 'item')} right both ways",
        details=(f"More {first}: {few_layers(row['layers_first'])}; "
                 f"more {second}: {few_layers(row['layers_second'])}.",
                 *_step_definitions([row])),
        source=source("dissociations", where, layer=quoted),
    )  # fmt: skip


def _scoring_words(step: str) -> str:
    return _SCORED.get(step) or protocol_phrase(step)


def _step_definitions(steps: Sequence[Row]) -> list[str]:
    """A sentence for each scoring step whose name in the tables is a term."""
    named = {row[end] for row in steps for end in ("first", "second")}
    return [words for step, words in _MEANT.items() if step in named]


def _steps_that_lose(losing: pd.DataFrame) -> Claim:
    steps = records(losing)
    most = max(steps, key=lambda row: row["difference"])
    where = {name: str(most[name]) for name in ("task", "kind", "site")}
    at = {name: [row[name] for row in steps] for name in ("first", "second")}
    first, second = (f"{number(100 * most[f'share_{end}'])} %" for end in ("first", "second"))
    value, low, high = (100 * float(most[name]) for name in ("difference", "low", "high"))
    return Claim(
        kind=SCORING, evidence=ESTABLISHED, importance=weight(0.9, float(most["difference"])),
        short=f"For {most['task']}, {intervention_words(most, 'one layer')} costs on "
f"average {second} of the "
        f"score {_scoring_words(most['second'])}, {first} {_scoring_words(most['first'])}.",
        capabilities=(str(most["capability"]),), tasks=(where["task"],),
        estimate=Estimate(value, low, high, "% of the score more, mean over the layers"),
        p=float(numbers(losing, "p_holm").max()),
        test="the largest; paired randomisation tests, Holm over the run",
        items=f"{spread(losing['n_items'])} items",
        details=(*(
            f"{capitalise(protocol_words(row['first']))} → {protocol_words(row['second'])}: "
            f"{interval(*(100 * row[name] for name in ('difference', 'low', 'high')))} % of the "
            "score more."
            for row in steps
        ), *_step_definitions(steps), "The score is the right answers above those of guessing."),
        caveat="Other layers are not shown to be needed: the scoring may only be harder.",
        source=source("ladder_steps", where, **at, next_rung=True),
    )  # fmt: skip


def _no_other_layers(quiet: pd.DataFrame) -> Claim:
    first = records(quiet)[0]
    where = {"kind": str(first["kind"]), "site": str(first["site"]), "other_layers": False}
    return Claim(
        kind=SCORING, evidence=OPEN, importance=weight(0.6, 0.0),
        short="That another way of scoring needs other layers is not established in "
        f"{count_noun(len(quiet), 'comparison')}.",
        tasks=tuple(in_order(quiet["task"], ())), source=source("ladder_steps", where),
        items=f"{count_range(quiet['n_common'], 'item')} right both ways",
        details=(f"{capitalise(intervention_words(first, 'one layer'))} is not shown to "
f"cost more one way at "
                 "one layer and more the other way at another (Holm over layers and "
                 "comparisons).",),
    )  # fmt: skip


def passage_findings(run: RunTables) -> list[Claim]:
    """For each pair of tasks and protocol: what is protected, what reading needs, or neither."""
    effects, pairs = run.table("books"), run.table("book_pairs")
    layers = pd.DataFrame() if effects is None else single_layers(effects)
    if layers.empty or pairs is None:
        return []
    kind, site = kinds_and_sites(layers)[0]
    smallest = SmallestEffects.from_settings(run.facts.settings).loss
    claims = []
    for pair in records(rows(pairs, kind=kind, site=site)):
        where = {name: str(pair[name]) for name in ("closed", "open", "protocol", "kind", "site")}
        tests = rows(layers, **where)
        sure = rows(tests, loses_more=["closed", "open"])
        sure = sure.loc[np.abs(numbers(sure, "protected")) >= smallest - 1e-9]
        sure = sure.sort_values("protected", key=abs, ascending=False, kind="stable")
        words = _no_protection_claim(pair, tests, smallest)
        if len(sure):
            words = _protection_claim(pair, sure, layers)
        at = {"layer": list(words["layers"])} if len(sure) else {}
        claims.append(
            Claim(
                kind=PASSAGES,
                source=source("books", where, **at),
                tasks=(where["closed"], where["open"]),
                protocols=(where["protocol"],),
                items=f"{int(pair['n_common'])} items right both ways",
                **words,
            )
        )
    return most_important(claims, 3)


def _protection_claim(pair: Row, sure: pd.DataFrame, layers: pd.DataFrame) -> dict[str, Any]:
    """The claim that a passage protects, or reading needs, some layer."""
    without, with_it = (rows(sure, loses_more=name) for name in ("closed", "open"))
    best = [records(part)[0] for part in (without, with_it) if len(part)]
    crossed = bool(pair["both_sorts"]) and len(best) == 2
    best = best[: 1 + crossed]
    top, quoted = best[0], [int(row["layer"]) for row in best]
    closed = top["loses_more"] == "closed"
    sign, more, less = (100, "without", "with") if closed else (-100, "with", "without")
    net, *ends = (sign * float(top[f"protected{end}"]) for end in ("", "_run_low", "_run_high"))
    unit = f"points more {more} the passage (layer {name_layer(quoted[0])})"
    over_run = all(row["p_run"] < LEVEL for row in best)
    losing = join_words(
        f"{few_layers(layers_in(part))} lose{'s' * (len(part) == 1)} more {words} the passage"
        for part, words in ((without, "without"), (with_it, "with"))
        if len(part)
    )
    p = f"({p_value(pair['p_holm'])}, Holm over layers and pairs of tasks of the run)"
    fewer = f", layer {name_layer(quoted[1])} fewer" if crossed else ""
    cross = f"That layers cross is not established {p}."
    caveat = (
        "So it may only make the questions easier or harder: this does not say where knowledge is."
    )
    if crossed:
        cross, caveat = (
            "Layers cross: one loses more than another without the passage and less with it "
            f"{p}. So it is neither only that the passage makes the questions easier nor that one "
            "layer matters more than another either way.",
            "",
        )
    return {
        "importance": weight(0.95 if crossed else 0.6, abs(float(top["protected"]))),
        "short": f"{capitalise(protocol_phrase(pair['protocol']))}, "
        f"{intervention_words(top)} loses more answers of "
        f"{pair['closed']} {more} the passage than {less} it{fewer}.",
        "evidence": ESTABLISHED if over_run else IN_TABLE,
        "layers": tuple(quoted),
        "estimate": Estimate(net, min(ends), max(ends), unit, run_bounds_text(layers)),
        "p": max(float(row["p_run" if over_run else "p_table"]) for row in best),
        "test": f"exact test, {family_text(layers) if over_run else 'Holm over the layers'}",
        "details": (f"{capitalise(losing)} (Holm over the layers).", cross),
        "caveat": caveat,
    }


def _no_protection_claim(pair: Row, tests: pd.DataFrame, smallest: float) -> dict[str, Any]:
    """The claim that no layer is shown to lose more one way."""
    luck = max(float(numbers(tests, name).max()) for name in ("luck_closed", "luck_open"))
    least = math.ceil(math.log(2 * len(tests) / ALPHA) / math.log(2 - min(luck, 0.999)) - 1e-9)
    return {
        "evidence": OPEN,
        "importance": weight(0.4, 0.0),
        "short": f"That the passage of {pair['open']} protects answers of {pair['closed']} is not "
        f"established {protocol_phrase(pair['protocol'])}.",
        "details": (
            f"{capitalise(intervention_words(pair, 'one layer'))} is not shown to lose "
            f"{100 * smallest:.3g} "
            "points or more, net, of the answers one way (exact tests, Holm over "
            f"{count_noun(len(tests), 'layer')}).",
            f"At least {least} would have to be lost one way and none the other.",
        ),
    }
