"""Sentences on layers that can be shown to lose nothing that matters, or on why none can.

"No significant loss" is not "no loss": a layer is named only where a loss of the smallest size of
interest is excluded by a test, in accuracy and in nats.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from layerwise.presentation.claim import Claim, finding, source, spaced, weight
from layerwise.presentation.items import independent, items_of
from layerwise.presentation.over_run import every_test
from layerwise.presentation.rows import layers_of, numbers, records, rows
from layerwise.presentation.wording import (
    PROTOCOL_ORDER,
    capitalised,
    counted,
    doing,
    in_order,
    layer_ranges,
    p_value,
)
from layerwise.stats import holm
from layerwise.stats.effects import ALPHA
from layerwise.stats.equivalence import excludable_loss
from layerwise.stats.interest import Interest
from layerwise.storage.run_tables import RunTables

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
            shown = dict(zip(p, held.tolist(), strict=True)), sum(map(len, whole))
            found.append(
                _shown(mine, p, *shown, smallest)
                if min(p.values()) < ALPHA
                else _none(mine, len(p), smallest)
            )
    return spaced(found, 2)


def no_loss(effects: pd.DataFrame) -> dict[int, float]:
    """By layer, the p-value that it loses less than what would matter, corrected over the layers.

    Args:
        effects: effects of single layers under one protocol, of tasks with signal.
    """
    p = no_loss_by_layer(effects)
    return dict(zip(p, map(float, holm(np.array(list(p.values())))), strict=True))


def no_loss_by_layer(effects: pd.DataFrame) -> dict[int, float]:
    """By layer, the p-value that it loses less than what would matter, in each of the tasks.

    All tasks must show it, and nats beside accuracy where there are any, so the largest p-value of
    a layer is that of the whole claim (Berger 1982, Technometrics 24). A layer that was not changed
    in every task has 1.

    Args:
        effects: effects of single layers under one protocol, of tasks with signal.
    """
    points, nats = (numbers(effects, name) for name in ("p_no_loss", "p_no_loss_nats"))
    larger = np.fmax(np.where(np.isnan(points), 1.0, points), nats)
    n_tasks, layers = len(set(effects["task"])), layers_of(effects)
    of_layer = [larger[np.asarray(effects["layer"] == layer, dtype=bool)] for layer in layers]
    whole = [float(each.max()) if len(each) == n_tasks else 1.0 for each in of_layer]
    return dict(zip(layers, whole, strict=True))


def _shown(
    mine: pd.DataFrame,
    p: dict[int, float],
    over_run: dict[int, float],
    n_tests: int,
    smallest: Interest,
) -> Claim:
    layers = [layer for layer, value in p.items() if value < ALPHA]
    held = [layer for layer in layers if over_run[layer] < ALPHA]
    told = "none" if not held else "all of them" if held == layers else layer_ranges(held)
    run = f"; over {every_test(n_tests)} of the run (Holm): {told}"
    first = records(mine)[0]
    action = doing(first["kind"], first["site"], "one of the layers" if layers[1:] else "layer")
    each = ", one at a time," if layers[1:] else ""
    sentence = (
        f"{capitalised(action)} {layer_ranges(layers)}{each} costs less than "
        f"{_margin(mine, smallest)}: a larger loss is excluded for {len(layers)} of "
        f"{counted(len(p), 'layer')}, in {_asked(mine, 'each of ')}; one-sided "
        f"paired tests, {p_value(max(p[layer] for layer in layers))} at most "
        f"after Holm's correction over the layers{run})."
    )
    size = weight(0.75, len(layers) / len(p))
    return finding(sentence, size, NO_LOSS, source("effects", _where(first), layer=layers))


def _none(mine: pd.DataFrame, n_layers: int, smallest: Interest) -> Claim:
    least = excludable_loss(independent(mine), ALPHA / n_layers)
    first = records(mine)[0]
    action = doing(first["kind"], first["site"], "any one layer")
    sentence = (
        f"That {action} costs less than {_margin(mine, smallest)} is shown of none of the "
        f"{counted(n_layers, 'layer')}, in {_asked(mine)}; one-sided paired tests, Holm's "
        f"correction over the layers): with so many items, no loss below {100 * least:.0f} points "
        "could be excluded even where no answer changes."
    )
    return finding(sentence, weight(0.4, 0.0), NO_LOSS, source("effects", _where(first)))


def _asked(mine: pd.DataFrame, each: str = "") -> str:
    n_tasks = len(set(mine["task"]))
    tasks = "task" if n_tasks == 1 else f"{n_tasks} tasks"
    protocol = records(mine)[0]["protocol"]
    several = each if n_tasks > 1 else ""
    return f"{several}the {tasks} with signal under {protocol} (n = {items_of(mine)} a task"


def _where(row: dict[str, Any]) -> dict[str, Any]:
    return {name: str(row[name]) for name in ("protocol", "kind", "site")} | {"signal": True}


def _margin(mine: pd.DataFrame, smallest: Interest) -> str:
    points = f"{100 * smallest.loss:.3g} accuracy points"
    return (
        f"{points} and {smallest.nats:g} nats, of which an item counts for one at most"
        if np.isfinite(numbers(mine, "nats")).any()
        else points
    )
