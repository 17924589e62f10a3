"""Sentences on single layers: which are critical, and which show no measurable loss.

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
    PROTOCOL_ORDER,
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
from layerwise.results.run_tables import RunTables

from .lookup import ablations, effects_of

CRITICAL, HARMLESS, GAIN = "critical layers", "no measurable loss", "gain"


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
        f"{capitalised(str(top['capability']))}: {action} costs {lost} of the above-chance "
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


def harmless_layers(run: RunTables) -> list[Finding]:
    """Layers without a measurable loss under a protocol, and what the intervals still allow."""
    found = []
    for kind, site in ablations(run)[:1]:
        effects = effects_of(run, kind, site, signal=True)
        for protocol in in_order(effects["protocol"], PROTOCOL_ORDER):
            mine = rows(effects, protocol=protocol)
            layers = without_loss(mine)
            if layers:
                found.append(_harmless(mine, layers))
    return spaced(found, 2)


def without_loss(effects: pd.DataFrame) -> list[int]:
    """Layers that in no row have a significant effect or an interval wholly above no loss.

    The second condition is the stricter one: it holds a layer back although its loss did not
    survive the correction. Rows without an interval say nothing, and hold a layer back too.
    """
    some = rows(effects, significant=True)
    unsure = pd.DataFrame(effects.loc[~(numbers(effects, "acc_diff_low") <= 0)])
    return sorted(set(layers_of(effects)) - set(layers_of(some)) - set(layers_of(unsure)))


def _allowed(worst: dict[str, Any]) -> str:
    """The loss that cannot be ruled out; three in n, roughly, where no answer changed."""
    if worst["acc_diff_low"] == worst["acc_diff_high"] == 0:
        still = 300 / worst["n_items"]
        return f"no answer changed, which allows a loss of about {still:.0f} accuracy points"
    return f"the intervals allow up to {100 * worst['acc_diff_high']:.0f} accuracy points"


def _harmless(mine: pd.DataFrame, layers: list[int]) -> Finding:
    quiet = rows(mine, layer=layers)
    worst = records(quiet)[int(np.argmax(numbers(quiet, "acc_diff_high")))]
    which = "one of the layers" if len(layers) > 1 else "layer"
    action = doing(str(worst["kind"]), str(worst["site"]), which)
    each = ", one at a time" if len(layers) > 1 else ""
    tasks = counted(len(set(mine["task"])), "task")
    total = len(layers_of(mine))
    sentence = (
        f"No measurable loss from {action} {layer_ranges(layers)}{each} ({len(layers)} "
        f"of {total}), in the {tasks} with signal under {worst['protocol']} (n = "
        f"{spread(mine['n_items'])} a task); {_allowed(worst)} "
        f"(layer {name_layer(worst['layer'])}, {worst['task']})."
    )
    where = {**_where(worst, "protocol"), "signal": True}
    at = {"layer": int(worst["layer"]), "task": str(worst["task"])}
    return Finding(
        sentence, weight(0.75, len(layers) / total), HARMLESS, source("effects", where, **at)
    )
