"""A sentence on direct paths: what acts most on a receiver on its own.

Only what a test supports makes a sentence; the table has the rest.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from layerwise.presentation.claim import Claim, Estimate, source, weight
from layerwise.presentation.over_run import RATE, evidence_for, together
from layerwise.presentation.rows import asked_of, records, rows
from layerwise.presentation.wording import number, when
from layerwise.storage.run_tables import RunTables

PATHS = "paths"
_ACTIONS = {"noising": "takes away", "denoising": "brings back"}


def direct_paths(run: RunTables) -> list[Claim]:
    """The component that acts most on the logits, or on another receiver, on its own."""
    paths = run.table("path_effects")
    if paths is None:
        return []
    sure = pd.DataFrame(rows(paths, significant=True).query("recovered > 0"))
    ranked = records(sure.sort_values(by="recovered", ascending=False, kind="stable"))
    return [_path(row, paths) for row in ranked[:1]]


def _path(row: dict[str, Any], every: pd.DataFrame) -> Claim:
    keys = ("task", "protocol", "direction", "receiver")
    where = {name: str(row[name]) for name in keys}
    receiver = "the logits" if row["receiver"] == "logits" else f"receiver {row['receiver']}"
    names = ("recovered", "recovered_run_low", "recovered_run_high")
    value, low, high = (100 * float(row[name]) for name in names)
    within = ("p_bh", f"over the senders ({RATE})")
    return Claim(
        kind=PATHS, importance=weight(0.5, float(row["recovered"])),
        short=f"On {row['task']}, {row['sender']} acts most directly on {receiver} "
        f"{when(row['protocol'])}: its path {_ACTIONS[row['direction']]} {number(value)} % of the "
        "logit difference.",
        source=source("path_effects", where, sender=str(row["sender"])),
        layers=(int(row["layer"]),) if row["layer"] >= 0 else (),
        estimate=Estimate(value, low, high, "% of the logit difference", together(every)),
        details=("Only this path was patched.",), **asked_of(pd.DataFrame([row]), "pair"),
        **evidence_for(row, every, "sign flips of pairs", within, RATE),
    )  # fmt: skip
