"""Sentences on the ladder of scoring: which step loses, and whether other layers are needed.

"Other layers" is said only where two layers turn round, which is established over the whole run.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from layerwise.presentation.claim import ESTABLISHED, OPEN, SCORING, Claim, source, spaced, weight
from layerwise.presentation.naming import name_layer
from layerwise.presentation.rows import records, rows
from layerwise.presentation.wording import (
    RUNG_ORDER,
    capitalised,
    counted,
    doing,
    in_order,
    interval,
    joined,
    layer_ranges,
    number,
    spread,
    spread_of,
    when,
)
from layerwise.storage.run_tables import RunTables

from .lookup import kinds_and_sites

# Ways of scoring that are no protocols.
_SCORED = {
    "choice": when("continuation"), "first token": "by the first token",
    "teacher forcing": "by teacher forcing",
}  # fmt: skip
Row = dict[str, Any]


def ladder_findings(run: RunTables) -> list[Claim]:
    """Other layers where they are established, steps that lose, and one sentence for the rest."""
    steps, layers = run.table("ladder_steps"), run.table("dissociations")
    if steps is None or layers is None:
        return []
    signal = run.table("signal")
    if signal is not None:  # of a task that the model cannot do under any protocol nothing is said
        able = rows(signal, signal=True)["task"].unique().tolist()
        steps = pd.DataFrame(steps.loc[steps["task"].isin(able)])
    if steps.empty:
        return []
    kind, site = kinds_and_sites(steps)[0]
    steps, layers = rows(steps, kind=kind, site=site), rows(layers, kind=kind, site=site)
    other = [_other_layers(row, layers, len(steps)) for row in _clearest(steps)]
    harder = [
        _steps_that_lose(mine)
        for _, mine in steps.groupby("task", sort=False)
        if len(_losing(mine)) and rows(mine, other_layers=True).empty
    ]
    quiet = rows(steps, other_layers=False)
    alike = [_no_other_layers(quiet)] if len(quiet) else []
    return spaced(other, 3) + spaced(harder, 3) + alike


def _clearest(steps: pd.DataFrame) -> list[Row]:
    """Of each task with other layers the comparison with the smallest p-value.

    Tables of earlier versions, which did not ask whether two layers turn round, earn none.
    """
    turned = steps.dropna(subset=["layer_first", "layer_second"])
    sure = rows(turned, other_layers=True).sort_values("p_other_layers", kind="stable")
    return records(sure.drop_duplicates("task"))


def _other_layers(row: Row, layers: pd.DataFrame, n_steps: int) -> Claim:
    where = {name: str(row[name]) for name in ("task", "first", "second", "kind", "site")}
    quoted = [int(row[name]) for name in ("layer_first", "layer_second")]
    both = [records(rows(layers, **where, layer=layer))[0] for layer in quoted]
    first, second = where["first"], where["second"]
    lost = tuple(
        f"{capitalised(_doing(row, layer))} loses {layer['only_first']} items under {first} alone "
        f"and {layer['only_second']} under {second} alone."
        for layer in both
    )
    size = min(both[0]["only_first"], both[1]["only_second"]) / max(row["n_common"], 1)
    return Claim(
        kind=SCORING, evidence=ESTABLISHED, importance=weight(1.0, size),
        short=f"For {row['task']}, the model needs other layers {_scored(second)} (most clearly "
        f"layer {name_layer(quoted[1])}) than {_scored(first)} (layer {name_layer(quoted[0])}).",
        capabilities=(str(row["capability"]),), tasks=(where["task"],), layers=tuple(quoted),
        p=float(row["p_other_layers_holm"]),
        test="one layer costs more one way, another the other way, Holm over layers and the "
        f"{counted(n_steps, 'comparison')} of the run",
        items=f"{spread_of([row['n_common']], 'item')} right under both",
        details=(*lost, f"More under {first}: {_layers(row['layers_first'])}; more under {second}: "
                 f"{_layers(row['layers_second'])}."),
        source=source("dissociations", where, layer=quoted),
    )  # fmt: skip


def _scored(way: str) -> str:
    return _SCORED.get(way) or when(way)


def _doing(row: Row, layer: Row) -> str:
    return doing(str(row["kind"]), str(row["site"]), f"layer {name_layer(layer['layer'])}")


def _layers(found: Any) -> str:
    return f"layer{'s' * (len(found) > 1)} {layer_ranges(found)}"


def _losing(mine: pd.DataFrame) -> pd.DataFrame:
    """The steps from one rung to the next that cost significantly more."""
    sure = (mine["p_holm"] < 0.05) & (mine["difference"] > 0)
    return rows(pd.DataFrame(mine.loc[sure]), next_rung=True)


def _steps_that_lose(mine: pd.DataFrame) -> Claim:
    losing = records(_losing(mine))
    most, first = max(losing, key=lambda row: row["difference"]), records(mine)[0]
    cell = {name: str(first[name]) for name in ("task", "kind", "site")}
    shares = {row[end]: row[f"share_{end}"] for row in records(mine) for end in ("first", "second")}
    costs = (f"{name} {number(100 * shares[name])} %" for name in in_order(shares, RUNG_ORDER))
    steps = {end: [row[end] for row in losing] for end in ("first", "second")}
    added = tuple(
        f"From {row['first']} to {row['second']}: "
        f"{interval(*(100 * row[name] for name in ('difference', 'low', 'high')))} points more."
        for row in losing
    )
    return Claim(
        kind=SCORING, evidence=ESTABLISHED, importance=weight(0.9, float(most["difference"])),
        short=f"For {first['task']}, {_one_layer(first)} costs {number(100 * most['difference'])} "
        f"points more {_scored(most['second'])} than {_scored(most['first'])}, on average.",
        capabilities=(str(first["capability"]),), tasks=(cell["task"],),
        p=max(float(row["p_holm"]) for row in losing),
        test="the largest; paired randomisation tests, Holm over the run",
        items=f"{spread(mine['n_items'])} items",
        details=(f"It costs of the above-floor accuracy: {joined(costs)}.", *added),
        caveat="Other layers are not shown to be needed: the scoring may only be harder.",
        source=source("ladder_steps", cell, **steps, next_rung=True),
    )  # fmt: skip


def _one_layer(row: Row) -> str:
    return doing(str(row["kind"]), str(row["site"]), "one layer")


def _no_other_layers(quiet: pd.DataFrame) -> Claim:
    first = records(quiet)[0]
    where = {"kind": str(first["kind"]), "site": str(first["site"]), "other_layers": False}
    return Claim(
        kind=SCORING, evidence=OPEN, importance=weight(0.6, 0.0),
        short="That another way of scoring needs other layers is not established in "
        f"{counted(len(quiet), 'comparison')}.",
        tasks=tuple(in_order(quiet["task"], ())), source=source("ladder_steps", where),
        items=f"{spread_of(quiet['n_common'], 'item')} right under both",
        details=(f"{capitalised(_one_layer(first))} is not shown to cost more one way at one layer "
                 "and more the other way at another (Holm over layers and comparisons).",),
    )  # fmt: skip
