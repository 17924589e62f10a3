"""Tables of the same questions asked in other ways: scored in steps, and with a passage.

Definitions are in ``docs/statistics.md``; columns in ``docs/results.md``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from layerwise.stats.effects import (
    INTACT,
    NO_LAYERS,
    cells,
    effects_table,
    scale_of,
)
from layerwise.stats.families.estimate import (
    Ends,
    bounded_columns,
    exact_difference_bounds,
    resampled,
)
from layerwise.stats.share_tests.scoring_steps import (
    SCORING_STEPS,
    of_single_layers,
    step_records,
)
from layerwise.stats.share_tests.share_bounds import bounded, difference_wide_enough
from layerwise.storage.parquet import conform, frame
from layerwise.storage.provenance import Facts

_RENAMED = {
    "protocol": "rung", "acc_intact": "intact", "acc": "changed", "acc_diff": "loss",
    "acc_diff_low": "loss_low", "acc_diff_high": "loss_high",
}  # fmt: skip


def ladder_table(records: pd.DataFrame, effects: pd.DataFrame, facts: Facts) -> pd.DataFrame:
    """``ladder.parquet``: what changing each layer costs, rung by rung."""
    single = of_single_layers(records)
    known = effects.loc[effects["head"].isna() & (effects["layers"].str.len() == 1)]
    names = {step.protocol: step.name for step in SCORING_STEPS if step.column == "correct"}
    tables = [known.assign(protocol=known["protocol"].map(names))]
    steps = [step_records(single, step) for step in SCORING_STEPS if step.column != "correct"]
    tokens = pd.concat(steps, ignore_index=True)
    if len(tokens):
        tables.append(effects_table(tokens, _chance(facts), facts.seed))
    table = pd.concat(tables, ignore_index=True).rename(columns=_RENAMED).assign(unit="accuracy")
    choice = table.loc[table["rung"] == "choice", ["task", "kind", "site", "signal"]]
    signal = {tuple(where): bool(sure) for *where, sure in choice.drop_duplicates().to_numpy()}
    every = pd.concat([table, *_margins(single, signal, facts.seed)], ignore_index=True)
    # one rung makes no ladder
    return conform("ladder", every) if len(set(every["rung"])) > 1 else frame("ladder", [])


def _chance(facts: Facts) -> Any:
    """Stated chance on a rung; 0 where the task states none, so that the controls decide."""
    of_rung = {rung.name: rung.guessing for rung in SCORING_STEPS}
    return lambda task, rung: facts.task(task).chance.get(of_rung[rung], 0.0)


def _margins(
    records: pd.DataFrame, signal: dict[tuple[Any, ...], bool], seed: int
) -> Iterable[pd.DataFrame]:
    """The margin's rows: means in nats, of tasks whose choice has signal or has none alike."""
    of_choice = records.loc[(records["protocol"] == "continuation") & records["margin"].notna()]
    for cell in cells(of_choice) if len(of_choice) else ():
        if not len(cell.interventions):
            continue
        values = of_choice.loc[of_choice["task"] == cell.task]
        by_item = {
            name: values.loc[values["kind"] == name].set_index("item")["margin"].reindex(cell.items)
            for name in (INTACT, NO_LAYERS)
        }
        intact, floor = (by_item[name].to_numpy(dtype=float) for name in (INTACT, NO_LAYERS))
        n = len(intact)
        above, lost = resampled(cell.task, cell.clusters, seed, intact - floor, cell.margins)
        share = [
            a / np.where(whole > 0, whole, np.nan) for a, whole in zip(loss, above, strict=True)
        ]
    columns: dict[str, Any] = {}
    for name, values, ends in (
        ("loss", loss, ("difference", "")),
        ("share", share, ("share_difference", "share_")),
        ("nats", nats, ("nats_difference", "nats_")),
        ("margin", margin, ("margin_difference", "margin_")),
    ):
        columns |= {f"{name}_{k}": value[0] for k, value in zip(_KINDS, values, strict=True)}
        columns |= bounded_columns(*ends, values[0] - values[1], n)
    chances = [facts.chance(step.cell.task, step.cell.protocol) for step in (first, second)]
    each = [
        bounded(values, scale_of(step.cell, chance))
        for values, step, chance in zip(share, (first, second), chances, strict=True)
    ]
    apart = (columns["share_low"], columns["share_high"])
    ends = difference_wide_enough(columns["share_difference"], apart, *each)
    low, high = (np.where(np.isfinite(end), end, np.nan) for end in ends)
    return columns | {"share_low": low, "share_high": high}


def _exact(table: pd.DataFrame, n_tests: int) -> Ends:
    """Exact bounds of what a passage protects; nan where no item is right both ways."""
    names = ("only_closed", "only_open", "n_independent", "n_common")
    lost, kept, alone, n = (table[name].to_numpy(dtype=float) for name in names)
    there = np.where(n > 0, n, np.nan)
    low, high = exact_difference_bounds(
        lost * alone / there, kept * alone / there, alone, n_tests=n_tests
    )
    return np.where(n > 0, low, np.nan), np.where(n > 0, high, np.nan)
