"""Claims on what changing parts of a model costs: heads, no loss, no signal, and all of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from layerwise.presentation.claim import (
    OPEN,
    SILENT,
    Claim,
    Estimate,
    Evidence,
    most_important,
    source,
    weight,
)
from layerwise.presentation.naming import name_layer
from layerwise.presentation.no_signal import NAMED, controls_to_beat, in_full, in_short
from layerwise.presentation.over_run import (
    RATE,
    count_that_hold,
    every_test,
    run_bounds_text,
    run_wide_evidence,
)
from layerwise.presentation.rows import by_protocol, claim_scope, numbers, records, rows
from layerwise.presentation.wording import (
    HEAD_WORDS,
    capitalise,
    count_noun,
    in_order,
    independent,
    item_counts_text,
    layer_ranges,
    number,
    protocol_phrase,
)
from layerwise.stats.effects import ALPHA
from layerwise.stats.families.multiplicity import correct_family
from layerwise.stats.share_tests.equivalence import SmallestEffects, excludable_loss
from layerwise.storage.run_tables import RunTables

from ..tables.saved_effects import (
    HEADS,
    ablations,
    effects_of_layers,
    intervention_words,
    select_effects,
)
from .roles import claims
from .scoring_steps import passage_findings, step_findings

NO_LOSS = "no loss"
Row = dict[str, Any]


def layers_without_loss(run: RunTables) -> list[Claim]:
    """Per protocol, the layers that are shown to lose less than what would matter.

    The family is all layers under all protocols. A layer's test joins the tasks, whose rows the
    table has, so it has no row of its own.
    """
    for kind, site in ablations(run)[:1]:
        cells = dict(by_protocol(select_effects(run, kind, site, signal=True)))
        if cells:
            p = pd.concat({protocol: no_loss_by_layer(cell) for protocol, cell in cells.items()})
            over_run = pd.Series(correct_family(p.to_numpy()), p.index)
            made = [_no_loss(cell, over_run, run) for cell in cells.values()]
            return most_important(made, 2)
    return []


def no_loss(effects: pd.DataFrame) -> pd.Series:
    """By layer, p that it loses less than what would matter, corrected over the layers."""
    by_layer = no_loss_by_layer(effects)
    return pd.Series(correct_family(by_layer.to_numpy()), by_layer.index)


def no_loss_by_layer(effects: pd.DataFrame) -> pd.Series:
    """By layer, the p-value that it loses less than what would matter, in each of the tasks.

    All must show it, in accuracy and nats, so the largest counts (Berger 1982, Technometrics 24).
    """
    points, nats = (numbers(effects, name) for name in ("p_no_loss", "p_no_loss_nats"))
    larger = np.fmax(np.where(np.isnan(points), 1.0, points), nats)
    table = pd.DataFrame({"layer": effects["layer"].to_numpy(dtype=int), "p": larger})
    by_layer = table.groupby("layer").agg(p=("p", "max"), n=("p", "size"))
    p = np.where(by_layer["n"] == len(set(effects["task"])), by_layer["p"], 1.0)
    return pd.Series(p, by_layer.index)


def _no_loss(cell: pd.DataFrame, every: pd.Series, run: RunTables) -> Claim:
    """Under one protocol, the layers that are shown over the run; else those within the table."""
    first, smallest, within = (
        records(cell)[0],
        SmallestEffects.from_settings(run.facts.settings),
        no_loss(cell),
    )
    where = {name: str(first[name]) for name in ("protocol", "kind", "site")}
    over_run, n_layers = every[where["protocol"]], count_noun(len(within), "layer")
    sure, family = pd.Series(over_run[over_run < ALPHA]), f"{every_test(len(every))} of the run"
    alone, evidence = pd.Series(within[within < ALPHA]), Evidence.ESTABLISHED
    if sure.empty:
        sure, family, evidence = alone, n_layers, Evidence.IN_TABLE
    layers = [int(layer) for layer in sure.index]
    points = f"{100 * smallest.loss:.3g} accuracy points"
    if layers:
        named = f"any one of {len(layers)} layers"
        named = named if layers[1:] else f"layer {name_layer(layers[0])}"
        who = f"{capitalise(intervention_words(first, named))} costs"
        details = [
            f"A larger loss is excluded for {len(layers)} of {n_layers} in each task with signal: "
            f"{layer_ranges(layers)}.",
            f"Holm over the layers alone: {layer_ranges(alone.index)}.",
        ]
    else:
        evidence, who = OPEN, "No layer is shown to cost"
        least = excludable_loss(independent(cell), ALPHA / len(within))
        details = [
            f"{capitalise(intervention_words(first, 'each layer'))} was tested (one-sided "
            f"paired tests, Holm "
            f"over {n_layers}).",
            f"With so many items, no loss below {100 * least:.0f} points could be excluded even "
            "where no answer changes.",
        ]
    if np.isfinite(numbers(cell, "nats")).any():  # which are tested as well
        nats = f"{smallest.nats:g} nats, of which an item counts for one at most"
        details.append(f"A loss is to be below {points} and {nats}.")
    return Claim(
        kind=NO_LOSS,
        short=f"{who} less than {points} {protocol_phrase(where['protocol'])}.",
        evidence=evidence,
        importance=weight(0.75, len(layers) / len(within)) if layers else weight(0.4, 0.0),
        source=source("effects", where | {"signal": True}, **({"layer": layers} if layers else {})),
        tasks=tuple(in_order(cell["task"], ())),
        protocols=(where["protocol"],),
        layers=tuple(layers),
        items=f"items: {item_counts_text(cell)} a task",
        details=tuple(details),
        p=float(sure.max()) if layers else None,
        test=f"the largest; one-sided paired tests, Holm over {family}" if layers else "",
    )


def needed_heads(run: RunTables) -> list[Claim]:
    """The head whose loss costs most, or what the intervals allow where none is significant."""
    every = effects_of_layers(run, heads=True)
    for kind, site in ablations(run, HEADS)[:1]:
        heads = select_effects(run, kind, site, HEADS, signal=True)
        losses = pd.DataFrame(rows(heads, significant=True).query("acc_diff > 0"))
        smallest = SmallestEffects.from_settings(run.facts.settings).loss
        if heads.empty or every is None:
            return []
        if (numbers(losses, "acc_diff") >= smallest - 1e-9).any():
            return [_largest_loss(heads, losses, every)]
        return [_no_head(heads, every, smallest)]
    return []


def _largest_loss(heads: pd.DataFrame, losses: pd.DataFrame, every: pd.DataFrame) -> Claim:
    order = ["acc_diff", "share_low", "layer", "head"]  # by the points that the sentence names
    ranked = losses.sort_values(by=order, ascending=[False, False, True, True], kind="stable")
    top = records(ranked)[0]
    cell = {name: str(top[name]) for name in ("task", "protocol", "kind", "site")}
    noun, there, here = HEAD_WORDS[cell["site"]], rows(heads, **cell), rows(losses, **cell)
    over_run = count_that_hold(here, every, RATE)
    within = f"{RATE} over {count_noun(len(there), noun)}"
    return Claim(
        kind=HEADS, importance=weight(0.8, float(top["acc_diff"])),
        short=f"{capitalise(intervention_words(top, _head(top)))} costs "
f"{number(100 * top['acc_diff'])} "
        f"accuracy points of {top['task']} {protocol_phrase(cell['protocol'])}, the "
f"largest significant "
        f"loss of any {noun}.",
        tasks=(cell["task"],), protocols=(cell["protocol"],), layers=(int(top["layer"]),),
        estimate=_head_points(top, every),
        **run_wide_evidence(top, every, "exact McNemar test", ("p_bh", within), RATE),
        items=f"items: {item_counts_text(top)}",
        details=(
            f"{capitalise(noun)}s with a significant loss there: {len(here)}"
            f"{f'; {over_run}' if over_run else ''}.",
        ),
        source=source("effects", cell, layer=int(top["layer"]), head=int(top["head"])),
    )  # fmt: skip


def _no_head(heads: pd.DataFrame, every: pd.DataFrame, smallest: float) -> Claim:
    worst = records(heads)[int(np.argmax(numbers(heads, "acc_diff")))]
    noun = HEAD_WORDS[str(worst["site"])]
    pairs = len(heads[["task", "protocol"]].drop_duplicates())
    where = {"kind": str(worst["kind"]), "site": str(worst["site"]), "signal": True}
    at = {name: int(worst[name]) for name in ("layer", "head")}
    return Claim(
        kind=HEADS, evidence=OPEN, importance=weight(0.5, 0.0),
        short=f"No single {noun} is established to matter.", source=source("effects", where, **at),
        estimate=_head_points(worst, every), items=f"items: {item_counts_text(heads)}",
        details=(
            f"{capitalise(intervention_words(worst, f'any one {noun}'))} has a significant loss of "
            f"{100 * smallest:.3g} points or more in none of the "
            f"{count_noun(pairs, 'task-protocol pair')} with signal (Benjamini-Hochberg).",
            f"The largest loss is that without {_head(worst)}.",
        ),
    )  # fmt: skip


def _head_points(row: Row, every: pd.DataFrame) -> Estimate:
    value, low, high = (100 * float(row[f"acc_diff{end}"]) for end in ("", "_run_low", "_run_high"))
    unit = (
        f"accuracy points of {row['task']} {protocol_phrase(row['protocol'])} without {_head(row)}"
    )
    return Estimate(value, low, high, unit, run_bounds_text(every))


def _head(row: Row) -> str:
    """``"head 7.3"``: the kind of head, its layer and its number."""
    return f"{HEAD_WORDS[row['site']]} {name_layer(row['layer'])}.{row['head']}"


def findings(run: RunTables) -> list[Claim]:
    """Roles of layers and heads, and whether they depend on the protocol."""
    finders = (claims, step_findings, passage_findings, needed_heads, layers_without_loss)
    return [claim for finder in finders for claim in finder(run)]


def silent(run: RunTables) -> list[Claim]:
    """A claim for each task and protocol without signal, and one for all beyond a few."""
    signal = run.table("signal")
    if signal is None:
        return []
    dull = rows(signal, signal=False)
    missed = f"It is not shown to be better than {controls_to_beat(signal)}."
    claims = []
    for i in range(min(len(dull), NAMED + 1)):
        part, row, where = dull.iloc[[i]], records(dull)[i], {"signal": False}
        short = f"Nothing is said of what layers cost for {in_short([row])}."
        details = in_full(row, signal, run.facts)
        if i < NAMED:
            where = {name: row[name] for name in ("task", "protocol")}
        else:
            part, details = dull.iloc[NAMED:], ()
            more = count_noun(len(part), "further task-protocol pair")
            short = f"Nor is anything said of what layers cost for {more}."
        claims.append(
            Claim(
                kind=SILENT,
                evidence=OPEN,
                importance=weight(0.5, len(dull) / len(signal)),
                short=short,
                source=source("signal", where),
                details=(missed, *details),
                **claim_scope(part),
            )
        )
    return claims
