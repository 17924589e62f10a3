"""The items behind each cell of the strip, as JSON for the page's script.

Of each layer only items whose answer changed are there; ``layerwise items`` lists all.
"""

from __future__ import annotations

import json
from typing import Any

import pandas as pd

from layerwise.analyses.ablation.items import answers, shortened
from layerwise.analyses.ablation.questions import KEY, QUESTIONS
from layerwise.analyses.ablation.saved_effects import ablations
from layerwise.presentation.rows import records, rows
from layerwise.stats.effects import INTACT
from layerwise.storage.run_tables import RunTables

# What a page may hold of them: records looked through, and bytes.
MOST_RECORDS, MOST_BYTES = 300_000, 1_000_000
_QUESTION, _ANSWER = 160, 60


def items_json(run: RunTables) -> str:
    """What was asked and answered, by task and protocol; empty if there is nothing, or too much."""
    kinds, questions = ablations(run), run.table(QUESTIONS)
    table = run.table("records")
    if not kinds or questions is None or table is None or len(table) > MOST_RECORDS:
        return ""
    kind, site = kinds[0]
    intact = rows(table, kind=INTACT)
    changed = rows(table, kind=kind, site=site)
    changed = changed.loc[changed["layer"].notna()]
    groups = {name: part for name, part in changed.groupby(["task", "protocol"], sort=False)}
    made = [
        _task(part, rows(intact, task=task, protocol=protocol), questions)
        for (task, protocol), part in groups.items()
    ]
    # Inside a script element nothing may look like its end.
    text = json.dumps(made, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    return text if len(text.encode()) <= MOST_BYTES else ""


def _task(changed: pd.DataFrame, intact: pd.DataFrame, questions: pd.DataFrame) -> dict[str, Any]:
    before = answers(intact, intact, questions).sort_values("item", kind="stable")
    at = {item: i for i, item in enumerate(before["item"])}
    was = dict(zip(intact["item"], intact["correct"], strict=False))
    flipped = changed.loc[changed["correct"] != [was.get(item) for item in changed["item"]]]
    layers: dict[str, list[Any]] = {}
    if len(flipped):
        for layer, of_layer in flipped.groupby("layer"):
            layers[str(layer)] = [
                [at[row["item"]], shortened(row["without"], _ANSWER), _margin(row)]
                for row in records(answers(intact, pd.DataFrame(of_layer), questions))
            ]
    first = records(before)
    return {
        **{name: first[0][name] for name in KEY[:2]},
        "capability": str(intact["capability"].iloc[0]),
        "items": [
            [
                shortened(row["question"], _QUESTION), shortened(row["gold"], _ANSWER),
                shortened(row["intact"], _ANSWER), int(row["right_intact"]),
            ]
            for row in first
        ],
        "layers": layers,
    }  # fmt: skip


def _margin(row: dict[str, Any]) -> float | None:
    """The change in margin in nats, to a tenth; None under ``generate``."""
    change = row["margin_change"]
    return None if pd.isna(change) else round(float(change), 1)
