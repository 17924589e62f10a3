"""Claims on what changing parts of a model costs: all of them, on no loss, and on no signal."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from layerwise.presentation.claim import OPEN, SILENT, Claim, Evidence, source, spaced, weight
from layerwise.presentation.items import independent, items_of
from layerwise.presentation.naming import name_layer
from layerwise.presentation.no_signal import NAMED, in_full, in_short, not_better_than
from layerwise.presentation.over_run import every_test
from layerwise.presentation.rows import asked_of, layers_of, numbers, records, rows
from layerwise.presentation.wording import (
    PROTOCOL_ORDER,
    capitalised,
    counted,
    doing,
    in_order,
    layer_ranges,
    when,
)
from layerwise.stats import holm
from layerwise.stats.effects import ALPHA
from layerwise.stats.share_tests.equivalence import Interest, excludable_loss
from layerwise.storage.run_tables import RunTables

from .claims import claims
from .findings_books import book_findings
from .findings_heads import needed_heads
from .findings_ladder import ladder_findings
from .lookup import ablations, effects_of

NO_LOSS = "no loss"


def layers_without_loss(run: RunTables) -> list[Claim]:
    """Per protocol, the layers that are shown to lose less than what would matter."""
    found, smallest = [], Interest.of(run.facts.settings)
    for kind, site in ablations(run)[:1]:
        effects = effects_of(run, kind, site, signal=True)
        cells = {
            protocol: rows(effects, protocol=protocol)
            for protocol in in_order(effects["protocol"], PROTOCOL_ORDER)
        }
        whole = [no_loss_by_layer(mine) for mine in cells.values()]
        over_run = holm(np.concatenate([list(p.values()) for p in whole] or [np.zeros(0)]))
        for mine in cells.values():
            p = no_loss(mine)
            held, over_run = over_run[: len(p)], over_run[len(p) :]
            shown = dict(zip(p, held.tolist(), strict=True)), every_test(sum(map(len, whole)))
            found.append(
                _shown(mine, p, *shown, smallest)
                if min(p.values()) < ALPHA
                else _none(mine, len(p), smallest)
            )
    return spaced(found, 2)


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
    mine: pd.DataFrame, p: dict[int, float], run: dict[int, float], tests: str, smallest: Interest
) -> Claim:
    """The layers that are shown over the run; where there is none, those within the table."""
    in_table, over_run = ([layer for layer in p if each[layer] < ALPHA] for each in (p, run))
    layers, each = (over_run, run) if over_run else (in_table, p)
    named = f"any one of {len(layers)} layers" if layers[1:] else f"layer {name_layer(layers[0])}"
    more = [f"Holm over the layers alone: {layer_ranges(in_table)}."] if layers != in_table else []
    return Claim(
        short=f"{_doing(mine, named)} costs less than {_points(mine, smallest)}.",
        evidence=Evidence.ESTABLISHED if over_run else Evidence.IN_TABLE,
        importance=weight(0.75, len(layers) / len(p)), layers=tuple(layers),
        p=max(each[layer] for layer in layers),
        test="the largest; one-sided paired tests, Holm over "
        f"{f'{tests} of the run' if over_run else counted(len(p), 'layer')}",
        details=(
            f"A larger loss is excluded for {len(layers)} of {counted(len(p), 'layer')} in each "
            f"task with signal: {layer_ranges(layers)}.",
            *more, *_margins(mine, smallest),
        ),
        **_asked(mine, layer=layers),
    )  # fmt: skip


def _none(mine: pd.DataFrame, n_layers: int, smallest: Interest) -> Claim:
    least = excludable_loss(independent(mine), ALPHA / n_layers)
    return Claim(
        short=f"No layer is shown to cost less than {_points(mine, smallest)}.",
        evidence=Evidence.OPEN, importance=weight(0.4, 0.0),
        details=(
            f"{_doing(mine, 'each layer')} was tested (one-sided paired tests, Holm over "
            f"{counted(n_layers, 'layer')}).",
            f"With so many items, no loss below {100 * least:.0f} points could be excluded even "
            "where no answer changes.",
            *_margins(mine, smallest),
        ),
        **_asked(mine),
    )  # fmt: skip


def _doing(mine: pd.DataFrame, where: str) -> str:
    first = records(mine)[0]
    return capitalised(doing(first["kind"], first["site"], where))


def _asked(mine: pd.DataFrame, **at: list[int]) -> dict[str, Any]:
    first = records(mine)[0]
    where = {name: str(first[name]) for name in ("protocol", "kind", "site")}
    return {
        "kind": NO_LOSS, "tasks": tuple(in_order(mine["task"], ())),
        "protocols": (where["protocol"],), "items": f"items: {items_of(mine)} a task",
        "source": source("effects", where | {"signal": True}, **at),
    }  # fmt: skip


def _points(mine: pd.DataFrame, smallest: Interest) -> str:
    return f"{100 * smallest.loss:.3g} accuracy points {when(records(mine)[0]['protocol'])}"


def _margins(mine: pd.DataFrame, smallest: Interest) -> list[str]:
    """What is excluded where nats are tested as well."""
    nats = f"{smallest.nats:g} nats, of which an item counts for one at most"
    loss = f"A loss is to be below {100 * smallest.loss:.3g} accuracy points and {nats}."
    return [loss] if np.isfinite(numbers(mine, "nats")).any() else []


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
    found = [
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
        found.append(Claim(
            kind=SILENT, evidence=OPEN, importance=importance,
            short=f"Nor is anything said of what layers cost for {more}.", details=(missed,),
            source=source("signal", {"signal": False}), **asked_of(dull.iloc[NAMED:]),
        ))  # fmt: skip
    return found
