"""Sentences on single layers: which are critical, and where one brings a gain.

They read effects tables only, and say nothing of tasks without signal.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from layerwise.presentation.finding import Finding, source, spaced, weight
from layerwise.presentation.naming import name_layer
from layerwise.presentation.rows import layers_of, numbers, records, rows
from layerwise.presentation.wording import (
    CAPABILITY_ORDER,
    capitalised,
    counted,
    doing,
    in_order,
    interval,
    layer_ranges,
    p_value,
    percent,
    spread,
)
from layerwise.storage.run_tables import RunTables

from .lookup import ablations, effects_of

CRITICAL, GAIN = "critical layers", "gain"


def critical_layers(run: RunTables) -> list[Finding]:
    """The largest significant loss of each capability, and the layers that matter there."""
    found = []
    for kind, site in ablations(run)[:1]:
        effects = effects_of(run, kind, site, signal=True)
        for capability in in_order(effects["capability"], CAPABILITY_ORDER):
            mine = rows(effects, capability=capability)
            losses = significant_losses(mine)
            found.append(_largest(mine, losses) if len(losses) else _none(mine, capability))
    return spaced(found, 6)


def significant_losses(effects: pd.DataFrame) -> pd.DataFrame:
    """The rows whose effect is significant after Holm's correction and is a loss."""
    return pd.DataFrame(rows(effects, significant=True).query("acc_diff > 0"))


def _largest(mine: pd.DataFrame, losses: pd.DataFrame) -> Finding:
    ranked = losses.sort_values(
        by=["share_lost", "share_low", "layer"], ascending=[False, False, True], kind="stable"
    )
    top = records(ranked)[0]
    cell = _where(top, "task", "protocol")
    there = rows(mine, **cell)
    layers = layers_of(rows(losses, **cell))
    action = doing(str(top["kind"]), str(top["site"]), f"layer {name_layer(top['layer'])}")
    lost = percent(top["share_lost"], top["share_low"], top["share_high"])
    sentence = (
        f"{capitalised(str(top['capability']))}: {action} costs {lost} of the above-floor "
        f"accuracy of {top['task']} under {top['protocol']} (n = {top['n_items']}; "
        f"{p_value(top['p_holm'])} after Holm's correction), the largest loss found for this "
        f"capability; there, {len(layers)} of {counted(len(layers_of(there)), 'layer')} have a "
        f"significant loss: {layer_ranges(layers)}."
    )
    size = weight(1.0, float(np.nan_to_num(top["share_low"])))
    return Finding(sentence, size, CRITICAL, source("effects", cell, layer=int(top["layer"])))


def gains(run: RunTables) -> list[Finding]:
    """The largest significant gain from taking a layer out, if there is any."""
    found = []
    for kind, site in ablations(run)[:1]:
        sure = effects_of(run, kind, site, signal=True, significant=True).query("acc_diff < 0")
        ranked = records(sure.sort_values(by="acc_diff", kind="stable"))
        found += [_gain(row, len(ranked)) for row in ranked[:1]]
    return found


def _gain(row: dict[str, Any], count: int) -> Finding:
    bounds = interval(*(-100 * row[name] for name in ("acc_diff", "acc_diff_high", "acc_diff_low")))
    action = capitalised(doing(row["kind"], row["site"], f"layer {name_layer(row['layer'])}"))
    sentence = (
        f"{action} raises the accuracy of {row['task']} under {row['protocol']} by {bounds} "
        f"points (n = {row['n_items']}; {p_value(row['p_holm'])} after Holm's correction), the "
        f"largest of {counted(count, 'significant gain')}."
    )
    cell = _where(row, "task", "protocol")
    size = weight(0.8, -float(row["acc_diff"]))
    return Finding(sentence, size, GAIN, source("effects", cell, layer=int(row["layer"])))


def _where(row: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: str(row[name]) for name in (*names, "kind", "site")}


def _none(mine: pd.DataFrame, capability: str) -> Finding:
    first = records(mine)[0]
    action = doing(str(first["kind"]), str(first["site"]), "any one layer")
    cells = len({(row["task"], row["protocol"]) for row in records(mine)})
    worst = records(mine)[int(np.argmax(numbers(mine, "acc_diff")))]
    sentence = (
        f"{capitalised(capability)}: no critical layer is established; {action} has a significant "
        f"loss after Holm's correction in none of the {cells} task-protocol pairs with signal "
        f"(n = {spread(mine['n_items'])}; largest loss {_points(worst)})."
    )
    where = _where(first, "capability")
    return Finding(
        sentence, weight(0.5, 0.0), CRITICAL, source("effects", {**where, "signal": True})
    )


def _points(row: dict[str, Any]) -> str:
    bounds = interval(*(100 * row[name] for name in ("acc_diff", "acc_diff_low", "acc_diff_high")))
    where = f"layer {name_layer(row['layer'])}, {row['task']}, {row['protocol']}"
    return f"{bounds} accuracy points, {where}"
