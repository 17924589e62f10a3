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
    source,
    spaced,
    weight,
)
from layerwise.presentation.naming import name_layer
from layerwise.presentation.no_signal import NAMED, in_full, in_short, not_better_than
from layerwise.presentation.over_run import (
    RATE,
    count_that_hold,
    every_test,
    evidence_for,
    together,
)
from layerwise.presentation.rows import asked_of, layers_of, numbers, records, rows
from layerwise.presentation.wording import (
    HEAD_WORDS,
    PROTOCOL_ORDER,
    capitalised,
    counted,
    in_order,
    independent,
    items_of,
    layer_ranges,
    number,
    share_lost,
    when,
)
from layerwise.stats import holm
from layerwise.stats.effects import ALPHA
from layerwise.stats.share_tests.equivalence import Interest, excludable_loss
from layerwise.storage.run_tables import RunTables

from .claims import claims
from .findings_scoring import book_findings, ladder_findings
from .saved_effects import HEADS, ablations, done, effects_of, effects_of_layers

NO_LOSS = "no loss"


def layers_without_loss(run: RunTables) -> list[Claim]:
    """Per protocol, the layers that are shown to lose less than what would matter."""
    claims, smallest = [], Interest.of(run.facts.settings)
    for kind, site in ablations(run)[:1]:
        effects = effects_of(run, kind, site, signal=True)
        cells = {
            protocol: rows(effects, protocol=protocol)
            for protocol in in_order(effects["protocol"], PROTOCOL_ORDER)
        }
        whole = [no_loss_by_layer(cell) for cell in cells.values()]
        over_run = holm(np.concatenate([list(p.values()) for p in whole] or [np.zeros(0)]))
        for cell in cells.values():
            p = no_loss(cell)
            by_task, over_run = over_run[: len(p)], over_run[len(p) :]
            shown = dict(zip(p, by_task.tolist(), strict=True)), every_test(sum(map(len, whole)))
            claims.append(
                _shown(cell, p, *shown, smallest)
                if min(p.values()) < ALPHA
                else _none(cell, len(p), smallest)
            )
    return spaced(claims, 2)


def no_loss(effects: pd.DataFrame) -> dict[int, float]:
    """By layer, p that it loses less than what would matter, corrected over the layers."""
    p = no_loss_by_layer(effects)
    return dict(zip(p, map(float, holm(np.array(list(p.values())))), strict=True))


def no_loss_by_layer(effects: pd.DataFrame) -> dict[int, float]:
    """By layer, the p-value that it loses less than what would matter, in each of the tasks.

    All tasks must show it, and nats beside accuracy where there are any, so the largest p-value of
    a layer is that of the whole claim (Berger 1982, Technometrics 24). A layer that was not changed
    in every task has 1.
    """
    points, nats = (numbers(effects, name) for name in ("p_no_loss", "p_no_loss_nats"))
    larger = np.fmax(np.where(np.isnan(points), 1.0, points), nats)
    n_tasks, layers = len(set(effects["task"])), layers_of(effects)
    of_layer = [larger[np.asarray(effects["layer"] == layer, dtype=bool)] for layer in layers]
    whole = [float(each.max()) if len(each) == n_tasks else 1.0 for each in of_layer]
    return dict(zip(layers, whole, strict=True))


def _shown(
    cell: pd.DataFrame, p: dict[int, float], run: dict[int, float], tests: str, smallest: Interest
) -> Claim:
    """The layers that are shown over the run; where there is none, those within the table."""
    in_table, over_run = ([layer for layer in p if each[layer] < ALPHA] for each in (p, run))
    layers, each = (over_run, run) if over_run else (in_table, p)
    named = f"any one of {len(layers)} layers" if layers[1:] else f"layer {name_layer(layers[0])}"
    more = [f"Holm over the layers alone: {layer_ranges(in_table)}."] if layers != in_table else []
    return Claim(
        short=f"{_doing(cell, named)} costs less than {_points(cell, smallest)}.",
        evidence=Evidence.ESTABLISHED if over_run else Evidence.IN_TABLE,
        importance=weight(0.75, len(layers) / len(p)), layers=tuple(layers),
        p=max(each[layer] for layer in layers),
        test="the largest; one-sided paired tests, Holm over "
        f"{f'{tests} of the run' if over_run else counted(len(p), 'layer')}",
        details=(
            f"A larger loss is excluded for {len(layers)} of {counted(len(p), 'layer')} in each "
            f"task with signal: {layer_ranges(layers)}.",
            *more, *_margins(cell, smallest),
        ),
        **_scope(cell, layer=layers),
    )  # fmt: skip


def _none(cell: pd.DataFrame, n_layers: int, smallest: Interest) -> Claim:
    least = excludable_loss(independent(cell), ALPHA / n_layers)
    return Claim(
        short=f"No layer is shown to cost less than {_points(cell, smallest)}.",
        evidence=Evidence.OPEN, importance=weight(0.4, 0.0),
        details=(
            f"{_doing(cell, 'each layer')} was tested (one-sided paired tests, Holm over "
            f"{counted(n_layers, 'layer')}).",
            f"With so many items, no loss below {100 * least:.0f} points could be excluded even "
            "where no answer changes.",
            *_margins(cell, smallest),
        ),
        **_scope(cell),
    )  # fmt: skip


def _doing(cell: pd.DataFrame, where: str) -> str:
    return capitalised(done(records(cell)[0], where))


def _scope(cell: pd.DataFrame, **at: list[int]) -> dict[str, Any]:
    first = records(cell)[0]
    where = {name: str(first[name]) for name in ("protocol", "kind", "site")}
    return {
        "kind": NO_LOSS, "tasks": tuple(in_order(cell["task"], ())),
        "protocols": (where["protocol"],), "items": f"items: {items_of(cell)} a task",
        "source": source("effects", where | {"signal": True}, **at),
    }  # fmt: skip


def _points(cell: pd.DataFrame, smallest: Interest) -> str:
    return f"{100 * smallest.loss:.3g} accuracy points {when(records(cell)[0]['protocol'])}"


def _margins(cell: pd.DataFrame, smallest: Interest) -> list[str]:
    """What is excluded where nats are tested as well."""
    nats = f"{smallest.nats:g} nats, of which an item counts for one at most"
    loss = f"A loss is to be below {100 * smallest.loss:.3g} accuracy points and {nats}."
    return [loss] if np.isfinite(numbers(cell, "nats")).any() else []


def needed_heads(run: RunTables) -> list[Claim]:
    """The head whose loss costs most, or what the intervals allow where none is significant."""
    claims = []
    for kind, site in ablations(run, HEADS)[:1]:
        heads = effects_of(run, kind, site, HEADS, signal=True)
        losses = pd.DataFrame(rows(heads, significant=True).query("acc_diff > 0"))
        every, smallest = effects_of_layers(run, heads=True), Interest.of(run.facts.settings).loss
        large = (numbers(losses, "acc_diff") >= smallest - 1e-9).any()
        if len(heads) and every is not None:
            claims.append(
                _largest_loss(heads, losses, every) if large else _no_head(heads, every, smallest)
            )
    return claims


def _largest_loss(heads: pd.DataFrame, losses: pd.DataFrame, every: pd.DataFrame) -> Claim:
    order = ["share_lost", "share_low", "layer", "head"]
    ranked = losses.sort_values(by=order, ascending=[False, False, True, True], kind="stable")
    top = records(ranked)[0]
    cell = {name: str(top[name]) for name in ("task", "protocol", "kind", "site")}
    noun, there, here = HEAD_WORDS[cell["site"]], rows(heads, **cell), rows(losses, **cell)
    over_run = count_that_hold(here, every, RATE)
    within = f"{RATE} over {counted(len(there), noun)}"
    return Claim(
        kind=HEADS, importance=weight(0.8, float(np.nan_to_num(top["share_low"]))),
        short=f"{capitalised(done(top, name_of(top)))} costs {number(100 * top['acc_diff'])} "
        f"accuracy points of {top['task']} {when(cell['protocol'])}, the largest loss of any "
        f"{noun}.",
        tasks=(cell["task"],), protocols=(cell["protocol"],), layers=(int(top["layer"]),),
        estimate=_head_points(top, every),
        **evidence_for(top, every, "exact McNemar test", ("p_bh", within), RATE),
        items=f"items: {items_of(top)}",
        details=(
            f"That is {share_lost(top['share_lost'])} of the score above the floor.",
            f"{capitalised(noun)}s with a significant loss there: {len(here)}"
            f"{f'; {over_run}' if over_run else ''}.",
        ),
        source=source("effects", cell, layer=int(top["layer"]), head=int(top["head"])),
    )  # fmt: skip


def _head_points(row: dict[str, Any], every: pd.DataFrame) -> Estimate:
    value, low, high = (100 * float(row[f"acc_diff{end}"]) for end in ("", "_run_low", "_run_high"))
    unit = f"accuracy points of {row['task']} {when(row['protocol'])} without {name_of(row)}"
    return Estimate(value, low, high, unit, together(every))


def _no_head(heads: pd.DataFrame, every: pd.DataFrame, smallest: float) -> Claim:
    worst = records(heads)[int(np.argmax(numbers(heads, "acc_diff")))]
    noun = HEAD_WORDS[str(worst["site"])]
    pairs = len(heads[["task", "protocol"]].drop_duplicates())
    where = {"kind": str(worst["kind"]), "site": str(worst["site"]), "signal": True}
    at = {name: int(worst[name]) for name in ("layer", "head")}
    return Claim(
        kind=HEADS, evidence=OPEN, importance=weight(0.5, 0.0),
        short=f"No single {noun} is established to matter.", source=source("effects", where, **at),
        estimate=_head_points(worst, every), items=f"items: {items_of(heads)}",
        details=(
            f"{capitalised(done(worst, f'any one {noun}'))} has a significant loss of "
            f"{100 * smallest:.3g} points or more in none of the "
            f"{counted(pairs, 'task-protocol pair')} with signal (Benjamini-Hochberg).",
            f"The largest loss is that without {name_of(worst)}.",
        ),
    )  # fmt: skip


def name_of(row: dict[str, Any]) -> str:
    """``"head 7.3"``: the kind of head, its layer and its number."""
    return f"{HEAD_WORDS[row['site']]} {name_layer(row['layer'])}.{row['head']}"


_FINDERS = (claims, ladder_findings, book_findings, needed_heads, layers_without_loss)


def findings(run: RunTables) -> list[Claim]:
    """What layers and heads are for, and whether that depends on the protocol."""
    return [claim for finder in _FINDERS for claim in finder(run)]


def silent(run: RunTables) -> list[Claim]:
    """A claim for each task and protocol without signal, and one for all beyond a few."""
    signal = run.table("signal")
    if signal is None:
        return []
    dull = rows(signal, signal=False)
    importance = weight(0.5, len(dull) / len(signal))
    missed = f"It is not shown to be better than {not_better_than(signal)}."
    claims = [
        Claim(
            kind=SILENT, evidence=OPEN, importance=importance,
            short=f"Nothing is said of what layers cost for {in_short([row])}.",
            source=source("signal", {name: row[name] for name in ("task", "protocol")}),
            details=(missed, *in_full(row, signal, run.facts)),
            **asked_of(rows(dull, task=row["task"], protocol=row["protocol"])),
        )
        for row in records(dull)[:NAMED]
    ]  # fmt: skip
    if len(dull) > NAMED:
        more = counted(len(dull) - NAMED, "further task-protocol pair")
        claims.append(Claim(
            kind=SILENT, evidence=OPEN, importance=importance,
            short=f"Nor is anything said of what layers cost for {more}.", details=(missed,),
            source=source("signal", {"signal": False}), **asked_of(dull.iloc[NAMED:]),
        ))  # fmt: skip
    return claims
