"""A sentence on direct paths: what acts most on a receiver on its own.

Only what a test supports makes a sentence; the table has the rest.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from layerwise.presentation.claim import Claim, finding, source, weight
from layerwise.presentation.over_run import RATE, count_that_hold, together
from layerwise.presentation.rows import records, rows
from layerwise.presentation.wording import (
    counted,
    p_value,
    percent,
)
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
    receiver = "logits" if row["receiver"] == "logits" else f"receiver {row['receiver']}"
    share = percent(*(row[f"recovered{end}"] for end in ("", "_run_low", "_run_high")))
    held = count_that_hold(pd.DataFrame([row]), every, RATE)
    sentence = (
        f"In {row['task']} ({row['protocol']} prompts), {row['sender']} acts most on the "
        f"{receiver} directly: patching this path alone {_ACTIONS[row['direction']]} {share} of "
        f"the logit difference ({together(every)}; {p_value(row['p_bh'])} after "
        f"Benjamini-Hochberg correction over the senders, {held}; n = "
        f"{counted(int(row['n_items']), 'pair')})."
    )
    size = weight(0.5, float(row["recovered"]))
    return finding(sentence, size, PATHS, source("path_effects", where, sender=str(row["sender"])))
