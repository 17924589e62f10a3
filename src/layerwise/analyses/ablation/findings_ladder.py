"""Sentences on the ladder of scoring: which step loses, and whether other layers are needed.

"Other layers" is said only where two layers turn round, which is established over the whole run.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from layerwise.presentation.claim import Claim, finding, source, spaced, weight
from layerwise.presentation.naming import name_layer
from layerwise.presentation.rows import records, rows
from layerwise.presentation.wording import (
    RUNG_ORDER,
    counted,
    doing,
    in_order,
    interval,
    joined,
    layer_ranges,
    number,
    p_value,
    spread,
    spread_of,
)
from layerwise.storage.run_tables import RunTables

from .lookup import kinds_and_sites

PROTOCOLS = "protocols"
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
    mine = rows(layers, **{name: row[name] for name in ("task", "first", "second")})
    one, other = (
        records(rows(mine, layer=int(row[name])))[0] for name in ("layer_first", "layer_second")
    )
    first, second = row["first"], row["second"]
    sentence = (
        f"{row['task']} ({row['capability']}) needs other layers under {second} than under "
        f"{first}: of {row['n_common']} items right under both, {_doing(row, one)} loses "
        f"{one['only_first']} under {first} alone and {one['only_second']} under {second} alone; "
        f"{_doing(row, other)} loses {other['only_second']} under {second} alone and "
        f"{other['only_first']} under {first} alone; the one loses more than the other under "
        f"{first}, the other under {second} ({p_value(row['p_other_layers_holm'])} after Holm's "
        f"correction over layers and the {counted(n_steps, 'comparison')} of the run). "
        f"More under {first}: {_layers(row['layers_first'])}; more under {second}: "
        f"{_layers(row['layers_second'])}."
    )
    at = {name: str(row[name]) for name in ("task", "first", "second", "kind", "site")}
    size = min(one["only_first"], other["only_second"]) / max(row["n_common"], 1)
    quoted = [int(one["layer"]), int(other["layer"])]
    return finding(
        sentence, weight(1.0, size), PROTOCOLS, source("dissociations", at, layer=quoted)
    )


def _doing(row: Row, layer: Row) -> str:
    return doing(str(row["kind"]), str(row["site"]), f"layer {name_layer(layer['layer'])}")


def _layers(found: Any) -> str:
    return f"layer{'s' * (len(found) > 1)} {layer_ranges(found)}"


def _losing(mine: pd.DataFrame) -> pd.DataFrame:
    """The steps from one rung to the next that cost significantly more."""
    sure = (mine["p_holm"] < 0.05) & (mine["difference"] > 0)
    return rows(pd.DataFrame(mine.loc[sure]), next_rung=True)


def _steps_that_lose(mine: pd.DataFrame) -> Claim:
    first = records(mine)[0]
    cell = {name: str(first[name]) for name in ("task", "kind", "site")}
    shares = {row["first"]: row["share_first"] for row in records(mine)}
    shares |= {row["second"]: row["share_second"] for row in records(mine)}
    costs = joined(
        f"{number(100 * shares[rung])} % under {rung}" for rung in in_order(shares, RUNG_ORDER)
    )
    losing = records(_losing(mine))
    added = joined(
        f"{row['first']} to {row['second']} (by "
        f"{interval(*(100 * row[name] for name in ('difference', 'low', 'high')))} points)"
        for row in losing
    )
    sentence = (
        f"Down the ladder of {first['task']} ({first['capability']}), {_one_layer(first)} costs on "
        f"average {costs} of the above-floor accuracy. More is lost, significantly, in the step "
        f"from {added} (paired, Holm over the run; n = {spread(mine['n_items'])}); other layers "
        "are not shown to be needed, so that the difference may be one of how hard the scoring is."
    )
    size = weight(0.9, max(float(row["difference"]) for row in losing))
    steps = [[row[name] for row in losing] for name in ("first", "second")]
    at = source("ladder_steps", cell, first=steps[0], second=steps[1], next_rung=True)
    return finding(sentence, size, PROTOCOLS, at)


def _one_layer(row: Row) -> str:
    return doing(str(row["kind"]), str(row["site"]), "one layer")


def _no_other_layers(quiet: pd.DataFrame) -> Claim:
    first = records(quiet)[0]
    tasks = in_order(quiet["task"], ())
    sentence = (
        f"That another way of scoring needs other layers is not established in "
        f"{counted(len(quiet), 'comparison')} of {joined(tasks)}: {_one_layer(first)} is not shown "
        "to cost more under one at some layer and more under the other at another, and these two "
        "to turn round (Holm over "
        f"layers and comparisons; n = {spread_of(quiet['n_common'], 'item')} right under both)."
    )
    where = {"kind": str(first["kind"]), "site": str(first["site"]), "other_layers": False}
    return finding(sentence, weight(0.6, 0.0), PROTOCOLS, source("ladder_steps", where))
