"""Sentences on whether the layers that matter change with the way of scoring.

A difference is told only where ``contrast.layers_apart`` finds one.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from layerwise.presentation.finding import Finding, source, spaced, weight
from layerwise.presentation.naming import name_layer
from layerwise.presentation.over_run import count_that_hold
from layerwise.presentation.rows import layers_of, records, rows
from layerwise.presentation.wording import (
    PROTOCOL_ORDER,
    doing,
    in_order,
    joined,
    layer_ranges,
    percent,
    spread,
)
from layerwise.storage.run_tables import RunTables

from .contrast import layers_apart
from .findings_layers import every_test, significant_losses
from .lookup import ablations, effects_of

PROTOCOLS = "protocols"
Row = dict[str, Any]


def protocol_differences(run: RunTables) -> list[Finding]:
    """One sentence per task whose protocols differ, and one for all the others together."""
    differ, alike = [], []
    for kind, site in ablations(run)[:1]:
        effects = effects_of(run, kind, site, signal=True)
        for task in in_order(effects["task"], ()):
            mine = rows(effects, task=task)
            if len(set(mine["protocol"])) > 1:
                (differ if layers_apart(mine) else alike).append(mine)
    if not differ and not alike:
        return []
    every = every_test(run)
    found = spaced([_differ(mine, every) for mine in differ], 3)
    return found + ([_alike(alike, every)] if alike else [])


def _differ(mine: pd.DataFrame, every: pd.DataFrame) -> Finding:
    apart = layers_apart(mine)
    upper, lower = _widest(rows(mine, layer=apart))
    layers = f"layer{'s' * (len(apart) > 1)} {layer_ranges(apart)}"
    action = doing(str(upper["kind"]), str(upper["site"]), "one layer")
    sentence = (
        f"The way of scoring matters for {upper['task']} ({upper['capability']}): {action} brings "
        f"a significant loss (Holm) for {_counts(mine)}, of {len(layers_of(mine))} layers "
        f"(n = {spread(mine['n_items'])}); at {layers} such a loss lies above the whole interval "
        f"under another protocol, most clearly at layer {name_layer(upper['layer'])}: "
        f"{_share(upper)} of the above-floor accuracy is lost under {upper['protocol']}, "
        f"{_share(lower)} under {lower['protocol']}{_held(mine, every)}."
    )
    at = {"layer": int(upper["layer"]), "protocol": [upper["protocol"], lower["protocol"]]}
    gap = float(upper["share_low"] - lower["share_high"])
    return Finding(sentence, weight(0.95, gap), PROTOCOLS, source("effects", _where(mine), **at))


def _widest(apart: pd.DataFrame) -> tuple[Row, Row]:
    """The two rows of one layer between whose intervals the gap is widest, upper one first."""
    pairs = [
        (upper, lower)
        for layer in layers_of(apart)
        for upper in records(rows(apart, layer=layer, significant=True))
        for lower in records(rows(apart, layer=layer))
    ]
    return max(pairs, key=_gap)


def _gap(pair: tuple[Row, Row]) -> float:
    gap = float(pair[0]["share_low"] - pair[1]["share_high"])
    return -1e9 if pd.isna(gap) else gap


def _counts(mine: pd.DataFrame) -> str:
    losses = significant_losses(mine)
    return joined(
        f"{len(rows(losses, protocol=protocol))} under {protocol}"
        for protocol in in_order(mine["protocol"], PROTOCOL_ORDER)
    )


def _share(row: Row) -> str:
    return percent(row["share_lost"], row["share_low"], row["share_high"])


def _where(mine: pd.DataFrame) -> dict[str, Any]:
    first = mine.iloc[0]
    names = ("kind", "site")
    tasks = in_order(mine["task"], ())
    where: dict[str, Any] = {name: str(first[name]) for name in names}
    return {"task": tasks[0] if len(tasks) == 1 else tasks, **where, "signal": True}


def _held(mine: pd.DataFrame, every: pd.DataFrame) -> str:
    told = count_that_hold(significant_losses(mine), every)
    return f"; {told}" if told else ""


def _alike(tables: list[pd.DataFrame], every: pd.DataFrame) -> Finding:
    whole = pd.concat(tables)
    counts = joined(f"{mine['task'].iloc[0]} ({_counts(mine)})" for mine in tables)
    sentence = (
        "No difference between ways of scoring is established for "
        f"{joined(str(mine['task'].iloc[0]) for mine in tables)}: no significant loss under one "
        "protocol lies above the whole interval under another; layers with a significant loss: "
        f"{counts} (n = {spread(whole['n_items'])}{_held(whole, every)})."
    )
    return Finding(sentence, weight(0.6, 0.0), PROTOCOLS, source("effects", _where(whole)))
