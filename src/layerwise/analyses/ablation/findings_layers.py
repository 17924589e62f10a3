"""Sentences on single layers: which are critical, and where one brings a gain.

They read effects tables only, and say nothing of tasks without signal.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from layerwise.presentation.finding import Finding, source, spaced, weight
from layerwise.presentation.items import independent, items_of
from layerwise.presentation.naming import name_layer
from layerwise.presentation.over_run import count_that_hold, together, which_hold
from layerwise.presentation.power import could_be_found
from layerwise.presentation.rows import layers_of, numbers, records, rows
from layerwise.presentation.wording import (
    CAPABILITY_ORDER,
    capitalised,
    counted,
    doing,
    in_order,
    interval,
    layer_ranges,
    number,
    p_value,
)
from layerwise.stats.interest import Interest
from layerwise.stats.power import GAINED
from layerwise.storage.run_tables import RunTables

from .lookup import ablations, effects_of, effects_of_layers

CRITICAL, GAIN = "critical layers", "gain"


def critical_layers(run: RunTables) -> list[Finding]:
    """The largest significant loss of each capability, and the layers that matter there."""
    found, smallest = [], Interest.of(run.facts.settings).loss
    for kind, site in ablations(run)[:1]:
        effects, every = effects_of(run, kind, site, signal=True), every_test(run)
        for capability in in_order(effects["capability"], CAPABILITY_ORDER):
            mine = rows(effects, capability=capability)
            losses = significant_losses(mine)
            large = (numbers(losses, "acc_diff") >= smallest - 1e-9).any()
            found.append(
                _largest(mine, losses, every) if large else _none(mine, capability, every, smallest)
            )
    return spaced(found, 6)


def every_test(run: RunTables) -> pd.DataFrame:
    """All effects that are corrected together with those of layers, of all kinds and sites."""
    every = effects_of_layers(run)
    assert every is not None
    return every


def significant_losses(effects: pd.DataFrame) -> pd.DataFrame:
    """The rows whose effect is significant after Holm's correction and is a loss."""
    return pd.DataFrame(rows(effects, significant=True).query("acc_diff > 0"))


def _largest(mine: pd.DataFrame, losses: pd.DataFrame, every: pd.DataFrame) -> Finding:
    ranked = losses.sort_values(
        by=["share_lost", "share_low", "layer"], ascending=[False, False, True], kind="stable"
    )
    top = records(ranked)[0]
    cell = _where(top, "task", "protocol")
    there, sure = rows(mine, **cell), rows(losses, **cell)
    layers = layers_of(sure)
    action = doing(str(top["kind"]), str(top["site"]), f"layer {name_layer(top['layer'])}")
    sentence = (
        f"{capitalised(str(top['capability']))}: {action} costs {points(top)} of {top['task']} "
        f"under {top['protocol']}, {number(100 * top['share_lost'])} % of those above the floor "
        f"({together(every)}; n = {items_of(top)}; {p_value(top['p_holm'])} after Holm's "
        f"correction over the layers), the largest loss found for this capability; there, "
        f"{len(layers)} of {counted(len(layers_of(there)), 'layer')} have a significant loss: "
        f"{layer_ranges(layers)}{which_hold(sure, every, _layers)}."
    )
    size = weight(1.0, float(np.nan_to_num(top["share_low"])))
    return Finding(sentence, size, CRITICAL, source("effects", cell, layer=int(top["layer"])))


def points(row: dict[str, Any], sign: int = 1) -> str:
    """Accuracy points with bounds that cover together over all tests of the run.

    Args:
        row: an effect.
        sign: -1 to tell of a loss as a gain.
    """
    ends = ("low", "high") if sign > 0 else ("high", "low")
    names = ("acc_diff", *(f"acc_diff_run_{end}" for end in ends))
    return f"{interval(*(100 * sign * row[name] for name in names))} accuracy points"


def _layers(sure: pd.DataFrame) -> str:
    return layer_ranges(layers_of(sure))


def gains(run: RunTables) -> list[Finding]:
    """The largest significant gain from taking a layer out, if there is any."""
    found = []
    for kind, site in ablations(run)[:1]:
        sure = effects_of(run, kind, site, signal=True, significant=True).query("acc_diff < 0")
        ranked = sure.sort_values(by="acc_diff", kind="stable")
        large = -numbers(ranked, "acc_diff") >= Interest.of(run.facts.settings).loss - 1e-9
        found += [_gain(ranked, every_test(run))] if large.any() else []
    return found


def _gain(ranked: pd.DataFrame, every: pd.DataFrame) -> Finding:
    row = records(ranked)[0]
    action = capitalised(doing(row["kind"], row["site"], f"layer {name_layer(row['layer'])}"))
    sentence = (
        f"{action} raises the accuracy of {row['task']} under {row['protocol']} by "
        f"{points(row, -1)} ({together(every)}; n = {items_of(row)}; {p_value(row['p_holm'])} "
        f"after Holm's correction over the layers), the largest significant gain; "
        f"{count_that_hold(ranked, every)}."
    )
    cell = _where(row, "task", "protocol")
    size = weight(0.8, -float(row["acc_diff"]))
    return Finding(sentence, size, GAIN, source("effects", cell, layer=int(row["layer"])))


def what_could_be_seen(mine: pd.DataFrame) -> str:
    """How large a loss of a single layer the items of a table would have shown, in words.

    Args:
        mine: effects of single layers; of tasks of different sizes, those with fewest items count.
    """
    n = independent(mine)
    noun = "item" if n == numbers(mine, "n_items").min() else "cluster"
    counts = numbers(mine, "n_gained") / numbers(mine, "n_items")
    gained = min(float(counts.mean()) if np.isfinite(counts).all() else GAINED, 0.45)
    n_layers = len(layers_of(mine))
    found = could_be_found(n, n_layers, round(gained, 3))
    return (
        f"with {counted(n, noun)} {found} (Holm's correction over {counted(n_layers, 'layer')}, "
        f"{number(100 * gained, 1)} % of the answers gained for nothing, as here)"
    )


def _where(row: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: str(row[name]) for name in (*names, "kind", "site")}


def _none(mine: pd.DataFrame, capability: str, every: pd.DataFrame, smallest: float) -> Finding:
    first = records(mine)[0]
    action = doing(str(first["kind"]), str(first["site"]), "any one layer")
    cells = len({(row["task"], row["protocol"]) for row in records(mine)})
    worst = records(mine)[int(np.argmax(numbers(mine, "acc_diff")))]
    sentence = (
        f"{capitalised(capability)}: no critical layer is established; {action} has a significant "
        f"loss of {100 * smallest:.3g} points or more after Holm's correction in none of the "
        f"{cells} task-protocol pairs with signal "
        f"(n = {items_of(mine)}; largest loss {_worst(worst)}, {together(every)}); "
        f"{what_could_be_seen(mine)}."
    )
    where = _where(first, "capability")
    return Finding(
        sentence, weight(0.5, 0.0), CRITICAL, source("effects", {**where, "signal": True})
    )


def _worst(row: dict[str, Any]) -> str:
    where = f"layer {name_layer(row['layer'])}, {row['task']}, {row['protocol']}"
    return f"{points(row)}, {where}"
