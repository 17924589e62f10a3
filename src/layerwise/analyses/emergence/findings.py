"""The sentences that depths, their order, and the agreement of methods can earn."""

from __future__ import annotations

from typing import Any

import pandas as pd

from layerwise.ground.layer_names import COMPUTATION
from layerwise.presentation.claim import IN_TABLE, LENS, Claim, source, spaced, weight
from layerwise.presentation.naming import name_layer, stacks
from layerwise.presentation.rows import records, rows
from layerwise.presentation.wording import (
    CAPABILITY_ORDER,
    PROTOCOL_ORDER,
    capitalised,
    in_order,
    interval,
    when,
)
from layerwise.storage.run_tables import RunTables

from .findings_methods import agreements, interactions
from .findings_order import orders, suites_apart


def lens_depths(run: RunTables) -> list[Claim]:
    """Per protocol, the layer at which half of the rise of the answer is reached."""
    emergence = run.table("emergence")
    if emergence is None:
        return []
    where = {"method": "logit lens", "measure": "half-effect depth", "axis": COMPUTATION}
    table = rows(emergence, **where)
    found = []
    for protocol in in_order(table["protocol"], PROTOCOL_ORDER):
        place = {**where, "protocol": protocol}
        found.append(_lens_depth(rows(table, protocol=protocol), place, run))
    return spaced(found, 2)


def _lens_depth(mine: pd.DataFrame, where: dict[str, str], run: RunTables) -> Claim:
    names = in_order(mine["capability"], CAPABILITY_ORDER)
    depths = sorted(records(mine), key=lambda row: row["estimate"])
    ends = [f"{name_layer(round(row['layer']))} ({row['capability']})" for row in depths]
    at = f"between layers {ends[0]} and {ends[-1]}" if len(ends) > 1 else f"at layer {ends[0]}"
    spread = depths[-1]["estimate"] - depths[0]["estimate"]
    return Claim(
        kind=LENS, evidence=IN_TABLE, importance=weight(0.6, spread),
        short=f"By the logit lens, the answer's probability has risen halfway {at} "
        f"{when(where['protocol'])}.",
        capabilities=tuple(names), protocols=(where["protocol"],),
        details=tuple(_depth(records(rows(mine, capability=name))[0], run) for name in names),
        source=source("emergence", where),
    )  # fmt: skip


def _depth(row: dict[str, Any], run: RunTables) -> str:
    layers = interval(row["layer"], row["layer_low"], row["layer_high"], 1)
    order = " in order of computation" if stacks().n_encoder else ""
    name = capitalised(str(row["capability"]))
    return f"{name}: layer {layers}{order} (n = {row['n_items']}{_read(row, run)})."


def _read(row: dict[str, Any], run: RunTables) -> str:
    """Of how many items the answer's first token tells it from the other options, if not of all."""
    tasks = row["tasks"].split(",")
    asked = sum(task.n_items for task in run.facts.tasks if task.name in tasks)
    if asked <= row["n_items"]:
        return ""
    return f" of {asked} items, those whose answer begins as no other option does"


_FINDERS = (interactions, orders, suites_apart, lens_depths, agreements)


def findings(run: RunTables) -> list[Claim]:
    """Where capabilities emerge and in which order, and whether protocols and methods agree."""
    return [finding for finder in _FINDERS for finding in finder(run)]
