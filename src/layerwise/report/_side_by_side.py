"""Several runs side by side: one table, and a warning where tasks share a name only.

Nothing is tested between runs here; the table says what each run says by itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from layerwise.analyses.ablation.saved_effects import (
    ablations,
    effects_of,
    points,
    significant_losses,
)
from layerwise.presentation.naming import name_layer, naming_layers_of
from layerwise.presentation.rows import layers_of, numbers, records, rows
from layerwise.presentation.section import Table
from layerwise.presentation.wording import counted, doing, in_order, joined, percent
from layerwise.storage.run_tables import RunTables


def comparison(runs: Sequence[RunTables], names: Sequence[str]) -> Table | None:
    """A row per task and protocol and a column per run; None if no run has an ablation."""
    cells = in_order((cell for run in runs for cell in _cells(run)), ())
    if not cells:
        return None
    body = [[*cell, *(_say(run, *cell) for run in runs)] for cell in cells]
    columns = ("task", "protocol", *names)
    return Table("Runs side by side", columns, body)


def _cells(run: RunTables) -> list[tuple[str, str]]:
    signal = run.table("signal")
    if signal is None:
        return []
    return [(row["task"], row["protocol"]) for row in records(signal)]


def _say(run: RunTables, task: str, protocol: str) -> str:
    signal = run.table("signal")
    gates = [] if signal is None else records(rows(signal, task=task, protocol=protocol))
    if not gates:
        return "not run"
    row = gates[0]
    accuracy = f"intact {percent(row['accuracy'], row['low'], row['high'])}, n = {row['n_items']}"
    with naming_layers_of(run.facts.model):
        return f"{accuracy}; {_losses(run, task, protocol) if row['signal'] else 'no signal'}"


def _losses(run: RunTables, task: str, protocol: str) -> str:
    for kind, site in ablations(run)[:1]:
        return _largest(rows(effects_of(run, kind, site), task=task, protocol=protocol))
    return "no single layer was changed"


def _largest(effects: pd.DataFrame) -> str:
    losses = significant_losses(effects)
    text = f"{len(losses)} of {counted(len(layers_of(effects)), 'layer')} significant"
    if losses.empty:
        return text
    worst = records(losses)[int(np.argmax(numbers(losses, "share_lost")))]
    action = doing(worst["kind"], worst["site"], f"layer {name_layer(worst['layer'])}")
    lost = f"{points(worst)} (bounds for all tests of the run together)"
    return f"{text}; most: {action}, {lost} lost"


def differing_tasks(runs: Sequence[RunTables]) -> list[str]:
    """A sentence for each task name that stands for other items in another run."""
    hashes: dict[str, list[str]] = {}
    for run in runs:
        for task in run.facts.tasks:
            hashes.setdefault(task.name, []).append(task.hash[:12])
    return [
        f"The runs do not have the same items under the name {name} (hashes "
        f"{joined(in_order(known, ()))}): their numbers for it are not comparable."
        for name, known in hashes.items()
        if len(set(known)) > 1
    ]
